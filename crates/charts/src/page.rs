//! A report's page: one file, for a phone, a screen in the dark, and paper.

use crate::chart::escape;

const STYLE: &str = include_str!("page.css");

/// The page with this title and, in HTML, this body.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>\n{STYLE}</style></head>\n\
         <body>\n{body}\n</body></html>\n"
    )
}

/// A table that scrolls where the screen is narrow.
pub fn table<const COLUMNS: usize>(
    head: &[String; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let row = |tag: &str, cells: &[String; COLUMNS]| {
        let cells: String =
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{cells}</tr>")
    };
    let rows: String = rows.into_iter().map(|cells| row("td", &cells)).collect();
    format!("<div class=\"scroll\"><table>{}{rows}</table></div>", row("th", head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_and_never_markup() {
        let table = table(&["a<b".to_owned()], [["<i>".to_owned()]]);
        assert!(table.contains("<th>a&lt;b</th>") && table.contains("<td>&lt;i&gt;</td>"));
        assert!(page("<x>", "").contains("<title>&lt;x&gt;</title>"));
    }
}
