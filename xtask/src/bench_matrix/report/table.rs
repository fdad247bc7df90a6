//! The columns of a report's tables, the same in the terminal, in Markdown and in HTML.

use super::{RowReport, SizeReport};
use crate::bench_matrix::cell::RowGroup;

/// Headings, the first of the rows' names.
pub(crate) const COLUMNS: [&str; 9] = [
    "row",
    "× baseline",
    "95% interval",
    "tokens/s",
    "min–max",
    "memory",
    "speed of light",
    "data wait",
    "loss",
];

/// What stands where there is no number.
const NOTHING: &str = "–";

/// The cells of a row, under [`COLUMNS`].
pub(crate) fn cells(row: &RowReport) -> [String; 9] {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    let rate = row.tokens_per_s;
    [
        row.title.clone(),
        or_nothing(row.ratio.map(|ratio| format!("{:.2}", ratio.value))),
        or_nothing(row.ratio.map(|ratio| format!("{:.2}–{:.2}", ratio.low, ratio.high))),
        or_nothing(rate.map(|rate| thousands(rate.median))),
        or_nothing(rate.map(|rate| format!("{}–{}", thousands(rate.min), thousands(rate.max)))),
        or_nothing(row.peak_memory_bytes.map(mebibytes)),
        or_nothing(row.speed_of_light.map(percent)),
        or_nothing(row.data_wait.map(percent)),
        or_nothing(row.final_loss.map(|loss| format!("{loss:.3}"))),
    ]
}

/// What a reader must know about rows: failures, faults, and why one is slow.
pub(crate) fn remarks(size: &SizeReport) -> Vec<(String, String)> {
    let mut remarks = Vec::new();
    for row in &size.rows {
        let failed = row.error.iter().map(|error| format!("failed: {error}"));
        let invalid = row.faults.iter().map(|fault| format!("not valid: {fault}"));
        let told = failed.chain(invalid).chain(row.busy.clone()).chain(row.note.clone());
        remarks.extend(told.map(|text| (row.title.clone(), text)));
    }
    for racer in &size.race {
        let failed = racer.error.iter().map(|error| format!("failed to the end: {error}"));
        let busy = racer.busy.iter().map(|busy| format!("to the end: {busy}"));
        remarks.extend(failed.chain(busy).map(|text| (racer.name.clone(), text)));
    }
    remarks
}

/// How a size was measured, in a sentence.
pub(crate) fn method(size: &SizeReport) -> String {
    let cut = match size.rounds_done < size.rounds {
        true => format!(" ({} were planned; the time limit was near)", size.rounds),
        false => String::new(),
    };
    let best = size.best_product_flops.map_or(String::new(), |flops| {
        format!(" 100% of the speed of light is {:.0} GFLOP/s.", flops / 1e9)
    });
    let (rounds, chance) = match size.rounds_done {
        1 => ("One round".to_owned(), " What differs in one round may be chance."),
        rounds => (format!("{rounds} rounds"), ""),
    };
    format!(
        "{rounds}{cut} over all rows, each cell a process of {} steps, the first {} timed apart.\
         {chance}{best}",
        size.steps, size.warmup_steps
    )
}

/// Startup: what is paid once, and compiling above all.
pub(crate) fn startup(size: &SizeReport) -> Vec<(String, String, String)> {
    let of = |group| size.group(group);
    let rows = RowGroup::ALL.into_iter().flat_map(of);
    rows.filter_map(|row| {
        let first = row.time_to_first_step_s?;
        Some((
            row.title.clone(),
            format!("{first:.1} s"),
            format!("{:.1} s", row.warmup_s.unwrap_or_default()),
        ))
    })
    .collect()
}

/// The table in columns of even width.
pub(crate) fn terminal(size: &SizeReport) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    let mut headings = Vec::new();
    for group in RowGroup::ALL {
        let of_group: Vec<_> = size.group(group).map(cells).collect();
        if !of_group.is_empty() {
            headings.push((rows.len(), group.title()));
            rows.extend(of_group);
        }
    }
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS.len()).map(|c| widest(c).unwrap_or(0)).collect();
    let mut text = format!("{}\n{}\n\n", size.title, method(size));
    for (index, row) in rows.iter().enumerate() {
        for (_, title) in headings.iter().filter(|(at, _)| *at == index) {
            text += &format!("\n{title}\n");
        }
        text += &format!("  {:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            text += &format!("  {cell:>width$}");
        }
        text += "\n";
    }
    for (row, remark) in remarks(size) {
        text += &format!("\n  {row}: {remark}");
    }
    for line in race_lines(size) {
        text += &format!("\n  {line}");
    }
    text
}

/// The race, a line a racer.
pub(crate) fn race_lines(size: &SizeReport) -> Vec<String> {
    let racers = size.race.iter().filter(|racer| racer.error.is_none());
    racers
        .map(|racer| {
            let name = &racer.name;
            let target = racer.target_loss.map_or(NOTHING.into(), |loss| format!("{loss:.3}"));
            match (racer.time_to_loss_s, racer.share_of_baseline) {
                (Some(time), Some(share)) => format!(
                    "{name}: loss {target} after {time:.0} s, 1/{:.1} of the baseline's time \
                     ({} steps to {:.3})",
                    1.0 / share,
                    racer.steps,
                    racer.final_loss.unwrap_or(f64::NAN)
                ),
                _ => format!("{name}: loss {target} was not reached in {} steps", racer.steps),
            }
        })
        .collect()
}

/// A whole number with commas: `11,304`.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits.as_str()),
    };
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for (index, digit) in digits[first..].chars().enumerate() {
        if index % 3 == 0 && !text.is_empty() {
            text.push(',');
        }
        text.push(digit);
    }
    format!("{sign}{text}")
}

/// Bytes in MiB.
pub(crate) fn mebibytes(bytes: f64) -> String {
    format!("{} MiB", thousands(bytes / f64::from(1 << 20)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        for (value, expected) in
            [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(thousands(value), expected);
        }
        assert_eq!(thousands(-12_345.0), "-12,345");
        assert_eq!(mebibytes(1.5e9), "1,431 MiB");
    }

    #[test]
    fn the_terminal_shows_every_row_and_every_failure() {
        let report = super::super::tests::report();
        let text = terminal(&report.sizes[0]);
        for part in [
            "Presets",
            "4.00",
            "broken: failed: error: no <such> key",
            "slower: it is emulated",
            "fast: loss 5.000 after 1 s, 1/4.2 of the baseline's time",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("MiB")).collect();
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width), "columns:\n{text}");
    }
}
