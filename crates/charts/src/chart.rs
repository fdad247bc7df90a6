//! Charts as SVG. Colours are CSS classes of the page, so that dark mode and print change them.

/// Width of every chart in its own units; the page scales it.
const WIDTH: f64 = 440.0;
/// Height of a bar with its label above it.
const ROW: f64 = 34.0;
const BAR: f64 = 12.0;
/// Height of a line chart, and the room for its axes.
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 44.0;
const BOTTOM: f64 = 34.0;
/// Room for half of the last number below the axis.
const RIGHT: f64 = 20.0;
/// Lines that a chart can tell apart.
pub const MOST_LINES: usize = 16;
/// Points of a line: more cannot be told apart.
const MOST_POINTS: usize = 200;

/// A bar from 0.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What stands above it.
    pub label: String,
    /// The number as it is written.
    pub text: String,
    /// Its length.
    pub value: f64,
    /// Where the value lies with confidence.
    pub interval: Option<(f64, f64)>,
    /// CSS class of its colour.
    pub class: &'static str,
}

/// A line through points `[x, y]`.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub label: String,
    /// In the order that they are joined in.
    pub points: Vec<[f64; 2]>,
    /// CSS class of its colour.
    pub class: String,
}

/// The furthest that bars reach, their intervals included.
pub fn reach<'a>(bars: impl IntoIterator<Item = &'a Bar>) -> f64 {
    let end = |bar: &Bar| bar.interval.map_or(bar.value, |(_, high)| high);
    bars.into_iter().map(end).fold(0.0, f64::max)
}

/// Horizontal bars, one below the other, each with a mark at `mark`, on a scale up to `most`.
pub fn bars(title: &str, bars: &[Bar], mark: Option<f64>, most: f64) -> String {
    let scale = if most > 0.0 { (WIDTH - 2.0) / most } else { 0.0 };
    let height = ROW * bars.len() as f64 + 4.0;
    let mut svg = open(title, height);
    for (index, bar) in bars.iter().enumerate() {
        let top = ROW * index as f64;
        let (text_y, bar_y) = (top + 14.0, top + 18.0);
        svg += &format!(
            "<text x=\"0\" y=\"{text_y:.1}\">{}</text>\
             <text class=\"value\" x=\"{WIDTH}\" y=\"{text_y:.1}\">{}</text>\
             <rect class=\"{}\" x=\"0\" y=\"{bar_y:.1}\" width=\"{:.1}\" height=\"{BAR}\" \
             rx=\"2\"/>",
            escape(&bar.label),
            escape(&bar.text),
            bar.class,
            (bar.value * scale).max(0.5)
        );
        if let Some(x) = mark.map(|mark| mark * scale) {
            let (from, to) = (bar_y - 1.0, bar_y + BAR + 1.0);
            svg += &format!("<path class=\"mark\" d=\"M{x:.1} {from:.1}V{to:.1}\"/>");
        }
        if let Some((low, high)) = bar.interval {
            svg += &whisker(low * scale, high * scale, bar_y + BAR / 2.0);
        }
    }
    svg + "</svg>"
}

/// The interval of a bar.
fn whisker(low: f64, high: f64, y: f64) -> String {
    let (top, bottom) = (y - 3.5, y + 3.5);
    format!(
        "<path class=\"whisker\" d=\"M{low:.1} {y:.1}H{high:.1}M{low:.1} {top:.1}V{bottom:.1}\
         M{high:.1} {top:.1}V{bottom:.1}\"/>"
    )
}

/// Lines over common axes, with a legend below; empty where no line has a point.
pub fn lines(title: &str, x_label: &str, y_label: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x_most = points().map(|[x, _]| *x).fold(0.0, f64::max);
    let (low, high) = points().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), [_, y]| {
        (low.min(*y), high.max(*y))
    });
    if lines.is_empty() || x_most <= 0.0 || !low.is_finite() {
        return String::new();
    }
    let y_axis = Axis::over(low, high, HEIGHT - BOTTOM, 10.0);
    let x_axis = Axis::over(0.0, x_most, LEFT, WIDTH - RIGHT);
    let legend = lines.len().div_ceil(2) as f64 * 18.0;
    let mut svg = open(title, HEIGHT + legend + 4.0);
    svg += &grid(&x_axis, &y_axis, x_label, y_label);
    for (index, line) in lines.iter().enumerate() {
        svg += &polyline(line, &x_axis, &y_axis);
        let (x, y) = ((index % 2) as f64 * WIDTH / 2.0, HEIGHT + (index / 2) as f64 * 18.0 + 14.0);
        svg += &format!(
            "<path class=\"line {}\" d=\"M{x} {:.1}h16\"/><text x=\"{}\" y=\"{:.1}\">{}</text>",
            line.class,
            y - 4.0,
            x + 22.0,
            y,
            escape(&line.label)
        );
    }
    svg + "</svg>"
}

fn polyline(line: &Line, x_axis: &Axis, y_axis: &Axis) -> String {
    let step = line.points.len().div_ceil(MOST_POINTS).max(1);
    let last = line.points.len().saturating_sub(1);
    let shown = line.points.iter().enumerate().filter(|(i, _)| i % step == 0 || *i == last);
    let places: Vec<String> = shown
        .map(|(_, [x, y])| format!("{:.1},{:.1}", x_axis.place(*x), y_axis.place(*y)))
        .collect();
    format!("<polyline class=\"line {}\" points=\"{}\"/>", line.class, places.join(" "))
}

fn grid(x_axis: &Axis, y_axis: &Axis, x_label: &str, y_label: &str) -> String {
    let mut svg = String::new();
    for (value, text) in y_axis.ticks() {
        let y = y_axis.place(value);
        svg += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick end\" x=\"{}\" y=\"{:.1}\">{text}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    for (value, text) in x_axis.ticks() {
        let x = x_axis.place(value);
        svg +=
            &format!("<text class=\"tick mid\" x=\"{x:.1}\" y=\"{}\">{text}</text>", HEIGHT - 18.0);
    }
    let middle = (LEFT + WIDTH) / 2.0;
    svg + &format!(
        "<text class=\"tick mid\" x=\"{middle}\" y=\"{}\">{}</text>\
         <text class=\"tick\" x=\"{}\" y=\"9\">{}</text>",
        HEIGHT - 3.0,
        escape(x_label),
        LEFT + 4.0,
        escape(y_label)
    )
}

/// Values laid along a length, with round numbers at its ticks.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    step: f64,
}

impl Axis {
    /// An axis whose ends are ticks around `low` to `high`.
    fn over(low: f64, high: f64, from: f64, to: f64) -> Self {
        let span = if high > low { high - low } else { 1.0 };
        let step = round_step(span / 4.0);
        let ends = ((low / step).floor() * step, (high.max(low + span) / step).ceil() * step);
        Self { low: ends.0, high: ends.1, from, to, step }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        // As many as the step needs: 0.5 one, 0.0002 four.
        let decimals = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        let tick = |index| self.low + index as f64 * self.step;
        (0..=count).map(tick).map(|value| (value, format!("{value:.decimals$}"))).collect()
    }
}

/// The next of 1, 2, 5, 10, … at or above.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|step| step * power >= least);
    step.unwrap_or(10.0) * power
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">")
}

/// A line in the colour of its place: eight colours, each whole and dashed.
pub fn line(index: usize, label: &str, points: &[[f64; 2]]) -> Line {
    let dashed = if index % MOST_LINES < MOST_LINES / 2 { "" } else { " dashed" };
    Line {
        label: label.to_owned(),
        points: points.to_vec(),
        class: format!("c{}{dashed}", index % (MOST_LINES / 2)),
    }
}

/// Text as HTML and SVG take it.
pub fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |value, interval| Bar {
            label: "a < b".to_owned(),
            text: format!("{value}×"),
            value,
            interval,
            class: "preset",
        };
        let both = [bar(2.0, Some((1.0, 4.0))), bar(4.0, None)];
        let svg = bars("t", &both, Some(1.0), reach(&both));
        assert!(svg.contains("a &lt; b") && svg.contains("width=\"219.0\""), "{svg}");
        assert!(svg.contains("width=\"438.0\"") && svg.contains("d=\"M109.5 17.0V31.0"), "{svg}");
        assert!(svg.contains("d=\"M109.5 24.0H438.0"), "{svg}");
    }

    #[test]
    fn axes_have_round_ticks_and_hold_all_values() {
        let axis = Axis::over(6.2, 9.9, 200.0, 0.0);
        let ticks: Vec<String> = axis.ticks().into_iter().map(|(_, text)| text).collect();
        assert_eq!(ticks, ["6", "7", "8", "9", "10"]);
        assert_eq!((axis.place(6.0), axis.place(10.0)), (200.0, 0.0));
        let flat = Axis::over(3.0, 3.0, 0.0, 1.0);
        assert_eq!((flat.place(3.0), flat.place(4.0)), (0.0, 1.0), "a flat line has an axis");
        for (least, step) in [(0.9, 1.0), (1.1, 2.0), (2.5, 5.0), (7.0, 10.0), (0.03, 0.05)] {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}");
        }
    }

    #[test]
    fn long_lines_are_thinned_and_keep_their_end() {
        let points: Vec<[f64; 2]> = (0..1001).map(|x| [f64::from(x), 5.0]).collect();
        let line = Line { label: "l".to_owned(), points, class: "c0".to_owned() };
        let svg = lines("t", "seconds", "loss", &[line]);
        let shown = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert!(shown.split(' ').count() <= MOST_POINTS + 1);
        assert!(shown.split(' ').next_back().unwrap().starts_with("420.0,"), "{shown}");
        assert_eq!(lines("t", "x", "y", &[]), "");
    }
}
