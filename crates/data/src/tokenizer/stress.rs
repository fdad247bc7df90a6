//! Text that tokenizers disagree on, and where two of them do.

use super::ModelTokenizer;
use crate::error::Result;

/// Lines in many scripts, with what normalizers, pre-tokenizers and models treat in different ways.
pub const STRESS_TEXT: &[&str] = &[
    "",
    " ",
    "The quick brown fox jumps over the lazy dog.",
    "  leading and trailing spaces,  two   three    four  ",
    "tabs\tand\u{b}other\u{c}spaces\u{a0}no-break\u{2003}em\u{3000}ideographic\u{200b}zero",
    "lines\nof\r\ntext\rand\u{85}more\u{2028}here\u{2029}end",
    "don't can't we'll I'm they've he'd it's ISN'T O'Neill rock 'n' roll",
    "ALL CAPS, Title Case, camelCase, snake_case, kebab-case, SCREAMING_CASE",
    "3.14 1,234,567 0x1F 1e-9 ½ ¾ ² ₃ Ⅷ ① 100% $5 €7 £8 ¥9 −273.15°C",
    "http://user:pass@example.org:8080/a/b.html?q=1&r=%20#top mail@example.org",
    "fn main() { let x: Vec<u8> = vec![0; 1 << 20]; } // <- code; if (a && b || !c) {}",
    "... !!! ??? ?!? --- — – ‐ « » “ ” ‘ ’ „ ‚ ‹ › ¿ ¡ § ¶ † ‡ • ‰",
    "naïve café Ångström Łódź İstanbul ıspanak straße ẞ œuvre æther þing ðat",
    "e\u{301} a\u{308} n\u{303} o\u{302}\u{323} \u{1e69} s\u{323}\u{307} q\u{307}\u{323}",
    "ﬁ ﬂ ﬀ Ǆ ǅ ǆ ĳ ŉ ſ K Å ℃ ℡ ™ © ® № ㎏ ㍿ ﷺ",
    "ＡＢＣ ａｂｃ １２３ ！？ ｶﾞｷﾞ ｱｲｳ ￥",
    "𝐁𝐨𝐥𝐝 𝑖𝑡𝑎𝑙𝑖𝑐 𝔉𝔯𝔞𝔨𝔱𝔲𝔯 𝟙𝟚𝟛 𝛼𝛽𝛾 ∑∏∫√∞≈≠≤≥⊂∪ → ⇒ ↔",
    "Η γρήγορη αλεπού πηδά πάνω από τον τεμπέλη σκύλο. ΣΊΣΥΦΟΣ σίσυφος ᾳ ῷ",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ѣ ї є ґ ў",
    "ქართული ენა არის ძველი. Ძველი. Հայերենը հնագույն լեզու է։",
    "עברית מימין לשמאל; שָׁלוֹם עֲלֵיכֶם",
    "العربية من اليمين إلى اليسار؛ السَّلَامُ عَلَيْكُم ١٢٣ ﻻ لا",
    "فارسی می‌خواهم گربه‌ها پ چ ژ گ ۴۵۶ اردو میں ٹ ڈ ڑ ے",
    "हिन्दी में लिखा हुआ वाक्य। क्षत्रिय ज्ञान श्री १२३",
    "বাংলা ভাষায় লেখা। தமிழ் மொழி. తెలుగు భాష. ಕನ್ನಡ. മലയാളം. ગુજરાતી. ਪੰਜਾਬੀ. සිංහල",
    "ภาษาไทยเขียนติดกันโดยไม่มีช่องว่างระหว่างคำ ๑๒๓ น้ำ กำ ฯลฯ ๆ",
    "ພາສາລາວ ភាសាខ្មែរ မြန်မာဘာသာ བོད་ཡིག་ ᠮᠣᠩᠭᠣᠯ",
    "አማርኛ ቋንቋ። ትግርኛ ⵜⴰⵎⴰⵣⵉⵖⵜ ߒߞߏ ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ",
    "中文没有空格，词语连在一起。我们在北京大学学习自然语言处理。",
    "繁體中文：臺灣、國家圖書館。𠮷野家 𡨸喃 㐀䶵",
    "日本語の文章は、漢字とひらがなとカタカナで書かれています。ー々〆ヶ",
    "한국어는 띄어쓰기를 합니다. \u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af} ㄱㄴㄷ",
    "Tiếng Việt có dấu: Đường đi khó, không khó vì ngăn sông cách núi.",
    "Türkçe: Iğdır'ın ılık iğdeleri. Íslenska: Þórður æðrulausi. Čeština: příliš žluťoučký kůň",
    "😀 😃 🎉 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 1️⃣ ☺️ ☺ 🧑🏿‍🚀 \u{1fae8}",
    "ACGTACGTTAGCCGATNNNNACGTTTAGGCATCGATCGGGATATCCGATCGA",
    "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
     aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "0000000000000000000000000000000000000000 ................................ ||||||||||||||||",
    "[CLS] [SEP] [MASK] [PAD] [UNK] <s> </s> <pad> <unk> <mask> <|endoftext|> <extra_id_0>",
    "##ing ##s Ġword Ċ ▁piece ▁▁ <0x0A> \\n \\u0041 &amp; &#233;",
    "\u{1}\u{7}\u{8}\u{1b}[31mred\u{1b}[0m\u{7f}\u{ad}soft\u{fe0f}\u{200d}\u{2060}\u{feff}x",
    "\u{202e}right to left\u{202c} \u{2066}isolate\u{2069} \u{61c}\u{200e}\u{200f}",
    "\u{fffd} \u{fffe} \u{e000} \u{f8ff} \u{10ffff} \u{d7ff} \u{378} \u{e0001}",
    "mixed漢字andひらがなwithLatin및한글과كلماتиКириллица123",
    "Zalgo: Z\u{351}\u{36b}\u{343}\u{36a}a\u{363}\u{343}l\u{36d}\u{34a}g\u{350}\u{302}o\u{369}",
];

/// A text to which two tokenizers give different ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerDifference {
    /// The text.
    pub text: String,
    /// The first tokenizer's ids.
    pub found: Vec<u32>,
    /// The other's.
    pub expected: Vec<u32>,
}

impl TokenizerDifference {
    /// The number of the first token that differs.
    pub fn first(&self) -> usize {
        let pairs = self.found.iter().zip(&self.expected);
        pairs.take_while(|(found, expected)| found == expected).count()
    }
}

impl ModelTokenizer {
    /// Where this tokenizer and what is `expected` of it differ.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn differences(&self, expected: &[(String, Vec<u32>)]) -> Result<Vec<TokenizerDifference>> {
        let mut differences = Vec::new();
        for (text, expected) in expected {
            let found = self.encode(text)?;
            if found != *expected {
                let (text, expected) = (text.clone(), expected.clone());
                differences.push(TokenizerDifference { text, found, expected });
            }
        }
        Ok(differences)
    }

    /// The ids that it gives the [`STRESS_TEXT`].
    ///
    /// # Errors
    /// A text that it refuses.
    pub fn stress_ids(&self) -> Result<Vec<(String, Vec<u32>)>> {
        STRESS_TEXT.iter().map(|&text| Ok((text.to_owned(), self.encode(text)?))).collect()
    }
}
