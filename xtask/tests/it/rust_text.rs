//! Just enough of Rust's grammar to find functions, test modules and `unsafe`.

use std::ops::Range;

/// The code with comments and the insides of literals blanked out. Lines stay where they are.
pub(crate) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let is_part_of_name = at > 0 && is_name_byte(bytes[at - 1]);
        let end = match rest {
            [b'/', b'/', ..] => line_end(bytes, at),
            [b'/', b'*', ..] => comment_end(bytes, at),
            [b'"', ..] => quoted_end(bytes, at, b'"'),
            [b'\'', ..] => character_end(bytes, at),
            [b'r', b'"' | b'#', ..] if !is_part_of_name => raw_end(bytes, at, 1),
            [b'b' | b'c', b'r', b'"' | b'#', ..] if !is_part_of_name => raw_end(bytes, at, 2),
            _ => at,
        };
        if end == at {
            code.push(bytes[at]);
            at += 1;
        } else {
            let blank = |byte: &u8| if *byte == b'\n' { b'\n' } else { b' ' };
            code.extend(bytes[at..end].iter().map(blank));
            at = end;
        }
    }
    String::from_utf8_lossy(&code).into_owned()
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

/// Block comments nest.
fn comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut at, mut depth) = (at, 0);
    while at < bytes.len() {
        match bytes[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut at = at + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// `'a'` and `'\n'` end at a quote; the `'a` of a lifetime is code.
fn character_end(bytes: &[u8], at: usize) -> usize {
    match bytes[at..] {
        [_, b'\\', ..] => quoted_end(bytes, at, b'\''),
        [_, first, ..] => {
            let width = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            let end = at + 1 + width;
            if bytes.get(end) == Some(&b'\'') { end + 1 } else { at }
        }
        _ => at,
    }
}

/// The end of `r#"…"#`, with a prefix of one or two letters; `r#name` is no literal.
fn raw_end(bytes: &[u8], at: usize, prefix: usize) -> usize {
    let hashes = bytes[at + prefix..].iter().take_while(|byte| **byte == b'#').count();
    let start = at + prefix + hashes + 1;
    if bytes.get(start - 1) != Some(&b'"') {
        return at;
    }
    let end = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let inside = bytes[start..].windows(end.len()).position(|window| window == end);
    inside.map_or(bytes.len(), |length| start + length + end.len())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where a word stands alone in code.
pub(crate) fn word_places<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let bytes = code.as_bytes();
        let starts = *at == 0 || !is_name_byte(bytes[at - 1]);
        starts && !bytes.get(at + word.len()).is_some_and(|byte| is_name_byte(*byte))
    })
}

/// The number of the line that a place is on, from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// A function with a body.
#[derive(Debug, PartialEq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// Lines from `fn` to the closing brace.
    pub(crate) length: usize,
}

/// The functions of `code` (see [`code_only`]) outside `#[cfg(test)]` modules.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let tests = test_modules(code);
    let outside = |at: &usize| !tests.iter().any(|module| module.contains(at));
    word_places(code, "fn").filter(outside).filter_map(|at| function(code, at)).collect()
}

fn function(code: &str, at: usize) -> Option<Function> {
    let signature = code[at + 2..].trim_start();
    let name: String = signature.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() {
        return None;
    }
    let body = body(code, at)?;
    let line = line_of(code, at);
    Some(Function { name, line, length: line_of(code, body.end - 1) - line + 1 })
}

fn test_modules(code: &str) -> Vec<Range<usize>> {
    let attributes = code.match_indices("#[cfg(test)]").map(|(at, text)| at + text.len());
    let modules = attributes.filter(|at| code[*at..].trim_start().starts_with("mod "));
    modules.filter_map(|at| body(code, at)).collect()
}

/// The braces that follow, unless the item ends at a semicolon before.
fn body(code: &str, from: usize) -> Option<Range<usize>> {
    let mut depth = 0usize;
    let mut start = None;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => (start, depth) = (Some(at), 1),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        match start {
            Some(start) if depth == 0 => return Some(start..at + 1),
            _ => {}
        }
    }
    None
}

#[test]
fn comments_and_literals_are_no_code() {
    for (text, expected) in [
        ("a // fn\nb", "a b"),
        ("a /* { /* } */ */ b", "a b"),
        (r#"a("} \" {", b)"#, "a( , b)"),
        (r##"r#"} " {"# b"##, "b"),
        (r#"b"{" r"\" br"{" c"#, "b c"),
        (r"'{' '\'' '\u{7b}' 'é' x", "x"),
        ("fn a<'b>(c: &'b str) {}", "fn a<'b>(c: &'b str) {}"),
        ("r#fn xr\"}\"", "r#fn xr"),
    ] {
        let code = code_only(text);
        assert_eq!(code.len(), text.len(), "places stay: {text}");
        assert_eq!(code.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{text}");
    }
}

#[test]
fn functions_are_measured_from_signature_to_brace() {
    let text = "fn one() {}\n\
        pub fn two<const N: usize>(\n    a: [u8; N],\n) -> fn(u8) -> u8 {\n    {\n    }\n}\n\
        trait T {\n    fn declared(a: [u8; 4]);\n    fn given(&self) {\n    }\n}\n\
        #[cfg(test)]\nmod tests {\n    fn hidden() {\n    }\n}\nfn last() { \"}\" }\n";
    let found: Vec<_> = functions(&code_only(text))
        .into_iter()
        .map(|function| (function.name, function.line, function.length))
        .collect();
    let expected = [("one", 1, 1), ("two", 2, 6), ("given", 10, 2), ("last", 18, 1)];
    assert_eq!(found, expected.map(|(name, line, length)| (name.to_owned(), line, length)));
}
