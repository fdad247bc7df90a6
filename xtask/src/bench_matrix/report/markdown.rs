//! `report.md`, and the part of it that is spliced into other files.

use super::table::{COLUMNS, cells, method, race_lines, remarks, startup};
use super::{Report, SizeReport};
use crate::bench_matrix::cell::RowGroup;
use crate::error::{Error, Result};

use std::path::Path;

/// What a file has around the part that is replaced.
const BEGIN: &str = "<!-- bench-matrix -->";
const END: &str = "<!-- /bench-matrix -->";

/// The whole report.
pub(crate) fn report(report: &Report) -> String {
    let mut text = format!("# bench-matrix, {}\n\n", report.made);
    text += &format!("Made by `{}` on the device `{}`.\n\n", report.command, report.device);
    for (label, value) in report.machine.lines() {
        text += &format!("* {label}: {value}\n");
    }
    if report.was_busy() {
        text += "\n**The machine did other work meanwhile; the remarks say in which rows. Their \
                 times are not to be trusted.**\n";
    }
    for size in &report.sizes {
        text += &section(size);
        text += "\n| row | to the first step | warm-up |\n| --- | ---: | ---: |\n";
        for (row, first, warmup) in startup(size) {
            text += &format!("| {} | {first} | {warmup} |\n", escaped(&row));
        }
    }
    text
}

/// A size with its table.
fn section(size: &SizeReport) -> String {
    let mut text = format!("\n## {}\n\n{}\n\n", size.title, method(size));
    text += &table(size, &RowGroup::ALL);
    let remarks = remarks(size);
    if !remarks.is_empty() {
        text += "\n";
    }
    for (row, remark) in remarks {
        text += &format!("* {}: {}\n", escaped(&row), escaped(&remark));
    }
    let race = race_lines(size);
    if !race.is_empty() {
        text += "\nTime to the baseline's final loss, from the start of the process:\n\n";
    }
    for line in race {
        text += &format!("* {}\n", escaped(&line));
    }
    text
}

fn table(size: &SizeReport, groups: &[RowGroup]) -> String {
    let mut text = format!("| {} |\n| --- |{}\n", COLUMNS.join(" | "), " ---: |".repeat(8));
    for group in groups {
        for row in size.group(*group) {
            let cells = cells(row).map(|cell| escaped(&cell));
            text += &format!("| {} |\n", cells.join(" | "));
        }
    }
    text
}

/// Where a bar or an angle would be read as markup.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}

/// What stands before and after the part that is replaced.
fn around<'a>(path: &Path, text: &'a str) -> Result<(&'a str, &'a str)> {
    let no_markers = || Error::NoMarkers { path: path.to_path_buf(), begin: BEGIN, end: END };
    let (before, rest) = text.split_once(BEGIN).ok_or_else(no_markers)?;
    let (_, after) = rest.split_once(END).ok_or_else(no_markers)?;
    Ok((before, after))
}

/// Refuses a file that nothing could be spliced into.
pub(crate) fn check_markers(path: &Path, text: &str) -> Result<()> {
    around(path, text).map(|_| ())
}

/// `text` with the tables of a report between its markers.
pub(crate) fn spliced(path: &Path, text: &str, report: &Report) -> Result<String> {
    let (before, after) = around(path, text)?;
    let machine = &report.machine;
    let mut part = format!(
        "\n`{}` made this table on {} ({} cores), commit {}, {}.\n",
        report.command, machine.cpu, machine.cores, machine.commit, report.made
    );
    for size in &report.sizes {
        part += &format!("\n{}. {}\n\n", size.title, method(size));
        part += &table(size, &[RowGroup::Preset, RowGroup::Peer]);
        for (row, remark) in remarks(size) {
            part += &format!("\n{}: {}\n", escaped(&row), escaped(&remark));
        }
    }
    Ok(format!("{before}{BEGIN}\n{part}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_a_table_with_every_row() {
        let sample = super::super::tests::report();
        let text = report(&sample);
        assert!(text.contains("| baseline | 1.00 | 1.00–1.00 | 95 | 91–100 |"), "{text}");
        assert!(text.contains("| broken | – |"), "{text}");
        assert!(text.contains("* broken: failed: error: no &lt;such> key"), "{text}");
        let columns: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with("| ") && line.contains("MiB"))
            .map(|line| line.matches('|').count())
            .collect();
        assert_eq!(columns, [10, 10, 10]);
    }

    #[test]
    fn a_table_is_spliced_between_its_markers_again_and_again() {
        let sample = super::super::tests::report();
        let path = Path::new("README.md");
        let text = format!("# Title\n\n{BEGIN}\nold numbers\n{END}\n\nThe end.\n");
        let once = spliced(path, &text, &sample).unwrap();
        assert!(once.starts_with("# Title\n") && once.ends_with("\n\nThe end.\n"), "{once}");
        assert!(once.contains("| fast |") && !once.contains("old numbers"), "{once}");
        assert!(once.contains("`cargo xtask bench-matrix` made this table"), "{once}");
        assert_eq!(spliced(path, &once, &sample).unwrap(), once);
        let error = spliced(path, "# Title\n", &sample).unwrap_err().to_string();
        assert!(error.contains("README.md") && error.contains(BEGIN), "{error}");
    }
}
