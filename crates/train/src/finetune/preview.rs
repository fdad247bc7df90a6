//! What is printed before training: labels and their shares, how much is cut off, and examples as
//! the model sees them.

use super::FinetuneTask;
use super::example::Example;

/// Examples that are shown.
const SHOWN: usize = 3;
/// Tokens of one that are shown.
const TOKENS: usize = 40;
/// Labels that are listed.
const LABELS: usize = 30;

/// Lines about the examples to learn from.
pub fn lines<T: FinetuneTask>(task: &T, examples: &[Example<T::Label>]) -> Vec<String> {
    let labels: Vec<&T::Label> =
        examples.iter().filter_map(|example| example.label.as_ref()).collect();
    let balance = task.balance(&labels);
    let mut lines: Vec<String> =
        balance.iter().take(LABELS).map(|line| format!("label      {line}")).collect();
    if balance.len() > LABELS {
        lines.push(format!("label      … and {} more", balance.len() - LABELS));
    }
    lines.push(format!("length     {}", lengths(examples, task.model().longest)));
    for example in examples.iter().take(SHOWN) {
        let label = example.label.as_ref().map(|label| task.label_text(label));
        for (at, text) in example.texts().enumerate() {
            let place = match at {
                0 => format!("example    line {}", example.line),
                _ => "           with".to_owned(),
            };
            lines.push(format!("{place}: {}", tokens(task, &text.ids)));
        }
        lines.push(format!("           label: {}", label.unwrap_or_else(|| "none".into())));
    }
    lines
}

/// How long texts are, and how many were cut.
fn lengths<L>(examples: &[Example<L>], longest: usize) -> String {
    let texts = || examples.iter().flat_map(Example::texts);
    let mut lengths: Vec<usize> = texts().map(|text| text.ids.len()).collect();
    lengths.sort_unstable();
    let cut = texts().filter(|text| text.is_cut).count();
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len().max(1) as f64;
    let at = |share: f64| {
        let place = (share * lengths.len() as f64) as usize;
        lengths.get(place.min(lengths.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    let cut = match longest {
        usize::MAX => String::new(),
        longest => format!("; {cut} of {} cut at {longest}", lengths.len()),
    };
    format!(
        "{mean:.1} tokens on average, 95% have at most {}, the longest {}{cut}",
        at(0.95),
        at(1.0)
    )
}

fn tokens<T: FinetuneTask>(task: &T, ids: &[u32]) -> String {
    let text = |&id: &u32| task.model().token_text(id);
    let shown: Vec<String> = ids.iter().take(TOKENS).map(text).collect();
    let rest = if ids.len() > TOKENS { " …" } else { "" };
    format!("{}{rest}", shown.join(" "))
}
