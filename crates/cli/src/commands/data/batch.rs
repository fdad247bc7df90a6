//! What a model is given, token by token: `bert4rs data inspect --batch N`.

use std::collections::HashMap;

use anstream::{AutoStream, ColorChoice};
use bert4rs_data::TextTokenizer;
use bert4rs_data::batch::IGNORED;
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::error::Context;
use bert4rs_train::Result;
use bert4rs_train::batch::Batch;

/// How a token is shown, on a terminal in colour.
#[derive(Clone, Copy)]
enum Style {
    /// No text, such as `[CLS]`.
    Special,
    /// In the place of what is hidden.
    Hidden,
    /// What is to be predicted.
    Label,
}

struct Painter<'a> {
    tokenizer: &'a TextTokenizer,
    colours: bool,
}

impl Painter<'_> {
    fn paint(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Special => 2,
            Style::Hidden => 31,
            Style::Label => 32,
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn token(&self, id: i64) -> String {
        let known = u32::try_from(id).ok().and_then(|id| self.tokenizer.token(id));
        let text = known.unwrap_or_else(|| format!("#{id}"));
        if text.starts_with("<extra_id_") {
            self.paint(Style::Hidden, &text)
        } else if is_special(&text) {
            self.paint(Style::Special, &text)
        } else {
            text
        }
    }

    fn tokens(&self, ids: &[i64]) -> String {
        ids.iter().map(|&id| self.token(id)).collect::<Vec<_>>().join(" ")
    }
}

fn is_special(text: &str) -> bool {
    (text.starts_with('[') && text.ends_with(']') && text.len() > 2)
        || matches!(text, "<pad>" | "</s>" | "<unk>" | "<|endoftext|>")
}

/// Rows of numbers, as a tensor `[rows, columns]` holds them.
struct Rows {
    columns: usize,
    values: Vec<i64>,
}

impl Rows {
    fn of(tensor: &Tensor) -> Result<Self> {
        let columns = tensor.size().last().map_or(1, |&size| size.max(1) as usize);
        Ok(Self { columns, values: numbers(tensor)? })
    }

    fn iter(&self) -> impl Iterator<Item = &[i64]> {
        self.values.chunks(self.columns)
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<i64>> {
    let op = "read a batch";
    let flat = tensor.f_reshape([-1]).during(op)?;
    Ok(Vec::<i64>::try_from(&flat).during(op)?)
}

/// Lines that show batch `number`: each row with its pieces of documents parted by `|`, what is
/// hidden followed by what is to be predicted in `‹›`, and of T5 the target below.
pub(super) fn describe(
    number: u64,
    batch: &Batch,
    tokenizer: &TextTokenizer,
) -> Result<Vec<String>> {
    let colours = AutoStream::choice(&std::io::stdout()) != ColorChoice::Never;
    let painter = Painter { tokenizer, colours };
    let named = &batch.tensors;
    let (ids, pieces) = (Rows::of(named.get("input_ids")?)?, Rows::of(named.get("document_ids")?)?);
    let mut labels = HashMap::new();
    if let (Some(positions), Some(tokens)) =
        (named.find("masked_positions"), named.find("masked_labels"))
    {
        labels.extend(numbers(positions)?.into_iter().zip(numbers(tokens)?));
    }
    let targets = named.find("labels").map(Rows::of).transpose()?;
    let mut targets = targets.iter().flat_map(Rows::iter);
    let size = &batch.size;
    let padding = 100.0 * (1.0 - size.tokens as f64 / size.positions.max(1) as f64);
    let mut lines = vec![format!(
        "batch {number}: {} rows of {}, {} tokens, {padding:.1}% padding, {} to predict",
        ids.values.len() / ids.columns,
        ids.columns,
        size.tokens,
        size.labels
    )];
    for (row, (ids, pieces)) in ids.iter().zip(pieces.iter()).enumerate() {
        let first = (row * ids.len()) as i64;
        lines.push(format!("row {row:<4} {}", painter.row(ids, pieces, first, &labels)));
        if let Some(target) = targets.next() {
            let shown: Vec<i64> = target.iter().copied().filter(|&id| id != IGNORED).collect();
            lines.push(format!("  target {}", painter.tokens(&shown)));
        }
    }
    Ok(lines)
}

impl Painter<'_> {
    /// A row whose positions are numbered from `first` on in the batch.
    fn row(&self, ids: &[i64], pieces: &[i64], first: i64, labels: &HashMap<i64, i64>) -> String {
        let mut shown = Vec::new();
        let mut start = 0;
        for piece in pieces.chunk_by(|a, b| a == b) {
            let here = start..start + piece.len();
            if start > 0 {
                shown.push("|".to_owned());
            }
            start = here.end;
            if self.is_padding(&ids[here.clone()]) {
                shown.push(self.paint(Style::Special, &format!("({} of padding)", here.len())));
                continue;
            }
            for position in here {
                let token = self.token(ids[position]);
                shown.push(match labels.get(&(first + position as i64)) {
                    None => token,
                    Some(&label) => {
                        let hidden = match is_special(&token) || label != ids[position] {
                            true => self.paint(Style::Hidden, &token),
                            false => token,
                        };
                        let label = self.paint(Style::Label, &format!("‹{}›", self.token(label)));
                        hidden + &label
                    }
                });
            }
        }
        shown.join(" ")
    }

    /// Whether a piece is nothing but padding: a piece of text is no special token alone.
    fn is_padding(&self, ids: &[i64]) -> bool {
        let name = |id: i64| u32::try_from(id).ok().and_then(|id| self.tokenizer.token(id));
        ids.iter().all(|&id| id == ids[0])
            && ids.first().and_then(|&id| name(id)).is_some_and(|name| is_special(&name))
    }
}
