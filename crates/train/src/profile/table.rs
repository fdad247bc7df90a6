//! Events summed by name.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bert4rs_tensor_core::profile::{Event, EventKind};

/// All calls of one name, a step's worth of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The operation or span.
    pub name: Cow<'static, str>,
    /// Calls a step.
    pub calls: f64,
    /// Milliseconds a step from beginning to end, what was called inside included.
    pub total_ms: f64,
    /// Milliseconds a step, what was called inside left out.
    pub self_ms: f64,
    /// `self_ms` over a step's time on all threads that work for it, 0 to 1.
    pub share: f64,
}

/// The spans of `steps` steps, the most costly first.
pub fn part_rows(events: &[Event], steps: u64) -> Vec<Row> {
    rows(&of_kind(events, |kind| kind == EventKind::Span), steps, |_| true)
}

/// The operations of `steps` steps, the most costly first. What no operation accounts for, such
/// as our own kernels, is counted to the span or node around it.
pub fn operation_rows(events: &[Event], steps: u64) -> Vec<Row> {
    let of_cpu = of_kind(events, |kind| kind != EventKind::Kernel);
    rows(&of_cpu, steps, |event| event.name != "step")
}

/// The kernels and copies of `steps` steps on a GPU, the most costly first; none on a CPU.
pub fn kernel_rows(events: &[Event], steps: u64) -> Vec<Row> {
    rows(&of_kind(events, |kind| kind == EventKind::Kernel), steps, |_| true)
}

fn of_kind(events: &[Event], is_shown: impl Fn(EventKind) -> bool) -> Vec<Event> {
    events.iter().filter(|event| is_shown(event.kind)).cloned().collect()
}

fn rows(events: &[Event], steps: u64, is_shown: impl Fn(&Event) -> bool) -> Vec<Row> {
    #[derive(Default)]
    struct Sum {
        calls: u64,
        total_ns: i64,
        self_ns: i64,
    }
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut all_ns = 0;
    for (event, self_ns) in events.iter().zip(self_times(events)) {
        let sum = sums.entry(&event.name).or_default();
        sum.calls += 1;
        sum.total_ns += event.end_ns - event.start_ns;
        sum.self_ns += self_ns;
        all_ns += self_ns;
    }
    let steps = steps.max(1) as f64;
    let shown = |name: &str| events.iter().find(|event| event.name == name).is_some_and(&is_shown);
    let mut rows: Vec<Row> = sums
        .into_iter()
        .filter(|(name, _)| shown(name))
        .map(|(name, sum)| Row {
            name: Cow::Owned(name.to_owned()),
            calls: sum.calls as f64 / steps,
            total_ms: sum.total_ns as f64 / 1e6 / steps,
            self_ms: sum.self_ns as f64 / 1e6 / steps,
            share: sum.self_ns as f64 / all_ns.max(1) as f64,
        })
        .collect();
    rows.sort_by(|a, b| b.self_ms.total_cmp(&a.self_ms));
    rows
}

/// For each event, its time without that of the events directly inside it on its thread.
fn self_times(events: &[Event]) -> Vec<i64> {
    let mut times: Vec<i64> = events.iter().map(|event| event.end_ns - event.start_ns).collect();
    let mut order: Vec<usize> = (0..events.len()).collect();
    order.sort_by_key(|&index| {
        let event = &events[index];
        // Of two that begin together, the longer is the outer one.
        (event.thread, event.start_ns, -event.end_ns)
    });
    let mut open: Vec<usize> = Vec::new();
    for index in order {
        let event = &events[index];
        while let Some(&outer) = open.last() {
            let outer = &events[outer];
            if outer.thread == event.thread && event.end_ns <= outer.end_ns {
                break;
            }
            open.pop();
        }
        if let Some(&outer) = open.last() {
            times[outer] -= event.end_ns - event.start_ns;
        }
        open.push(index);
    }
    times
}

/// Rows as a table for people.
pub fn table(heading: &str, rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let width = width.max(heading.chars().count());
    let columns = ["calls/step", "total ms", "self ms", "self"];
    let mut text = format!("{heading:<width$}");
    columns.iter().for_each(|column| text += &format!("  {column:>10}"));
    for row in rows {
        text += &format!(
            "\n{:<width$}  {:>10.1}  {:>10.2}  {:>10.2}  {:>9.1}%",
            row.name,
            row.calls,
            row.total_ms,
            row.self_ms,
            100.0 * row.share
        );
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &'static str, kind: EventKind, thread: u64, start: i64, end: i64) -> Event {
        let (start_ns, end_ns) = (start * 1_000_000, end * 1_000_000);
        Event { name: name.into(), kind, thread, start_ns, end_ns }
    }

    /// Two steps of 100 ms: a product inside a linear map inside the forward span, and the same
    /// product in backward; a worker makes batches meanwhile.
    fn events() -> Vec<Event> {
        use EventKind::{Backward, Kernel, Operation, Span};
        let of_step = |at: i64| {
            [
                event("step", Span, 1, at, at + 100),
                event("forward", Span, 1, at, at + 40),
                event("aten::linear", Operation, 1, at, at + 30),
                event("aten::mm", Operation, 1, at + 5, at + 25),
                event("MmBackward", Backward, 1, at + 40, at + 90),
                event("aten::mm", Operation, 1, at + 40, at + 70),
                event("make a batch", Span, 2, at + 1, at + 99),
                event("gemm", Kernel, 7, at + 6, at + 46),
            ]
        };
        [of_step(0), of_step(100)].concat()
    }

    fn row<'a>(rows: &'a [Row], name: &str) -> &'a Row {
        rows.iter().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn what_was_called_inside_is_counted_once() {
        let rows = operation_rows(&events(), 2);
        let mm = row(&rows, "aten::mm");
        assert_eq!((mm.calls, mm.total_ms, mm.self_ms), (2.0, 50.0, 50.0));
        let linear = row(&rows, "aten::linear");
        assert_eq!((linear.total_ms, linear.self_ms), (30.0, 10.0));
        assert_eq!(row(&rows, "forward").self_ms, 10.0);
        assert_eq!(row(&rows, "MmBackward").self_ms, 20.0);
        assert!(rows.windows(2).all(|pair| pair[0].self_ms >= pair[1].self_ms));
        assert!(rows.iter().all(|row| row.name != "step" && row.name != "gemm"));
        let kernels = kernel_rows(&events(), 2);
        assert_eq!((kernels.len(), kernels[0].self_ms, kernels[0].share), (1, 40.0, 1.0));
    }

    #[test]
    fn parts_of_a_step_add_up_to_it() {
        let rows = part_rows(&events(), 2);
        assert_eq!(row(&rows, "step").total_ms, 100.0);
        assert_eq!(row(&rows, "step").self_ms, 60.0, "backward has no span here");
        assert_eq!(row(&rows, "forward").self_ms, 40.0);
        let on_its_thread = row(&rows, "step").self_ms + row(&rows, "forward").self_ms;
        assert_eq!(on_its_thread, 100.0);
    }

    #[test]
    fn the_table_has_a_line_for_each_row() {
        let text = table("operation", &operation_rows(&events(), 2));
        assert_eq!(text.lines().count(), 1 + 5);
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
    }
}
