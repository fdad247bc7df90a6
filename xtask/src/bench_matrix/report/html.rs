//! `report.html`: one file that needs nothing else, for a screen of any width and for paper.

use bert4rs_charts::chart::{Bar, Line, MOST_LINES, bars, escape, line, lines, reach};

use super::table::{COLUMNS, cells, mebibytes, method, race_lines, remarks, startup};
use super::{Report, RowReport, SizeReport};
use crate::bench_matrix::cell::RowGroup;

/// The page.
pub(crate) fn page(report: &Report) -> String {
    let mut body = format!(
        "<h1>What each optimization of bert4rs is worth</h1>\
         <p class=\"soft\">{}, device {}. Made by <code>{}</code></p>",
        escape(&report.made),
        escape(&report.device),
        escape(&report.command)
    );
    if report.was_busy() {
        body += "<p class=\"bad\">The machine did other work meanwhile; the remarks say in which \
                 rows. Their times are not to be trusted.</p>";
    }
    if !report.is_valid() {
        body += "<p class=\"bad\">Some rows failed or are not valid; the remarks say which.</p>";
    }
    body += "<dl>";
    for (label, value) in report.machine.lines() {
        body += &format!("<dt>{label}</dt><dd>{}</dd>", escape(&value));
    }
    body += "</dl>";
    for size in &report.sizes {
        body += &section(size);
    }
    body += LEGEND;
    bert4rs_charts::page::page("bert4rs bench-matrix", &body)
}

const LEGEND: &str = "<h2>How to read this</h2>\
    <p>Each cell ran in a process of its own, in rounds over all rows, on the same batches in the \
    same order. Tokens a second are of the steps after the warm-up, all their time counted: the \
    median of the rounds, and the lowest and highest. The ratio is that median over the \
    baseline's; its interval holds 95% of 2,000 bootstrap draws of rounds and of steps in them. \
    Speed of light is the share of the machine's best matrix-product rate that went into products \
    that the model needs. Memory is the most that the process held. Loss is the mean over the last \
    tenth of the steps.</p>";

fn section(size: &SizeReport) -> String {
    let mut html = format!(
        "<section><h2>{}</h2><p class=\"soft\">{}</p>",
        escape(&size.title),
        escape(&method(size))
    );
    html += &race(size);
    html += "<h3>Tokens a second over the baseline's, with 95% intervals</h3>";
    html += &ratio_charts(size);
    html += &remark_list(size);
    html += &table(size);
    html += "<h3>Peak memory</h3>";
    html += &memory_charts(size);
    if size.race.is_empty() {
        html += "<h3>Loss against time since the process began</h3>";
        html += &loss_chart(size);
    }
    html += &startup_table(size);
    html + "</section>\n"
}

fn class(group: RowGroup) -> &'static str {
    match group {
        RowGroup::Preset => "preset",
        RowGroup::AddOneIn => "add",
        RowGroup::LeaveOneOut => "leave",
        RowGroup::Processes => "processes",
        RowGroup::Peer => "peer",
    }
}

/// One chart a group, so that none is longer than a page, all on one scale.
fn charts(
    size: &SizeReport,
    title: &str,
    mark: Option<f64>,
    bar: impl Fn(&RowReport) -> Option<Bar>,
) -> String {
    let of_group = |group| -> Vec<Bar> { size.group(group).filter_map(&bar).collect() };
    let groups = RowGroup::ALL.map(|group| (group, of_group(group)));
    let most = reach(groups.iter().flat_map(|(_, bars)| bars)).max(mark.unwrap_or(0.0));
    let shown = groups.iter().filter(|(_, bars)| !bars.is_empty());
    shown
        .map(|(group, of_group)| {
            let label = group.title();
            let title = format!("{title}: {label}");
            format!("<h4>{label}</h4>{}", bars(&title, of_group, mark, most))
        })
        .collect()
}

fn ratio_charts(size: &SizeReport) -> String {
    charts(size, "Tokens a second over the baseline's", Some(1.0), |row| {
        let ratio = row.ratio?;
        Some(Bar {
            label: row.title.clone(),
            text: format!("{:.2}× ({:.2}–{:.2})", ratio.value, ratio.low, ratio.high),
            value: ratio.value,
            interval: Some((ratio.low, ratio.high)),
            class: class(row.group),
        })
    })
}

fn memory_charts(size: &SizeReport) -> String {
    charts(size, "Peak memory", None, |row| {
        let bytes = row.peak_memory_bytes?;
        Some(Bar {
            label: row.title.clone(),
            text: mebibytes(bytes),
            value: bytes,
            interval: None,
            class: class(row.group),
        })
    })
}

fn loss_chart(size: &SizeReport) -> String {
    let shown = size.group(RowGroup::Preset).chain(size.group(RowGroup::Peer));
    let rows = shown.filter(|row| !row.curve.is_empty()).take(MOST_LINES);
    let rows: Vec<Line> =
        rows.enumerate().map(|(index, row)| line(index, &row.title, &row.curve)).collect();
    lines("Loss against time", "seconds", "loss, nats", &rows)
}

fn race(size: &SizeReport) -> String {
    if size.race.is_empty() {
        return String::new();
    }
    let racers = size.race.iter().filter(|racer| !racer.curve.is_empty()).take(MOST_LINES);
    let racers: Vec<Line> =
        racers.enumerate().map(|(index, racer)| line(index, &racer.name, &racer.curve)).collect();
    let mut html = "<h3>Loss against time since the process began, to the baseline's final \
                    loss</h3>"
        .to_owned();
    html += &lines("Loss against time", "seconds", "loss, nats", &racers);
    html += "<ul>";
    for text in race_lines(size) {
        html += &format!("<li>{}</li>", escape(&text));
    }
    html + "</ul>"
}

fn remark_list(size: &SizeReport) -> String {
    let remarks = remarks(size);
    if remarks.is_empty() {
        return String::new();
    }
    let items = remarks.iter().map(|(row, remark)| {
        let is_bad = !(remark.starts_with("slower") || remark.starts_with("as fast"));
        let class = if is_bad { " class=\"bad\"" } else { "" };
        format!("<li><b>{}</b>: <span{class}>{}</span></li>", escape(row), escape(remark))
    });
    format!("<h3>Remarks</h3><ul>{}</ul>", items.collect::<String>())
}

fn table(size: &SizeReport) -> String {
    let mut html =
        "<h3>All numbers</h3><div class=\"scroll\" tabindex=\"0\"><table><tr>".to_owned();
    html += &COLUMNS.map(|column| format!("<th>{column}</th>")).concat();
    html += "</tr>";
    for group in RowGroup::ALL {
        let rows: Vec<_> = size.group(group).collect();
        if !rows.is_empty() {
            html += &format!(
                "<tr class=\"group\"><td>{}</td><td colspan=\"8\"></td></tr>",
                group.title()
            );
        }
        for row in rows {
            let cells = cells(row).map(|cell| format!("<td>{}</td>", escape(&cell)));
            html += &format!("<tr>{}</tr>", cells.concat());
        }
    }
    html + "</table></div>"
}

fn startup_table(size: &SizeReport) -> String {
    let mut html = "<h3>Start: process to the end of the first step, and the warm-up's steps</h3>\
                    <div class=\"scroll\" tabindex=\"0\"><table><tr><th>row</th>\
                    <th>to the first step</th>\
                    <th>warm-up</th></tr>"
        .to_owned();
    for (row, first, warmup) in startup(size) {
        html += &format!("<tr><td>{}</td><td>{first}</td><td>{warmup}</td></tr>", escape(&row));
    }
    html + "</table></div>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&super::super::tests::report());
        for outside in ["http:", "https:", "url(", "<script", "<link", "src=", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert_eq!(
            page.matches("<svg").count(),
            5,
            "ratios and memory of two groups, and the race"
        );
    }

    #[test]
    fn what_was_measured_is_text_and_never_markup() {
        let page = page(&super::super::tests::report());
        assert!(page.contains("Small &lt;model&gt;") && !page.contains("<model>"));
        assert!(page.contains("no &lt;such&gt; key"));
        assert!(page.contains("4.00× (4.00–4.00)"));
    }
}
