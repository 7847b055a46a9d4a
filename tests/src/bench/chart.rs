//! The figures as a picture: how much of what goes without any proxy is left with each system.

use std::fmt::Write as _;

use super::figures::Row;

/// Where and when figures were measured; a picture without it means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its processors.
    pub processors: String,
    /// Release of the kernel.
    pub kernel: String,
    /// The day, as in `2026-11-22`.
    pub date: String,
}

/// A bar chart (SVG) of all rates that have something to be compared with; `None` if none has.
pub fn chart(rows: &[Row], machine: &Machine) -> Option<String> {
    let bars: Vec<&Row> =
        rows.iter().filter(|row| RATES.contains(&row.metric) && row.ratio.is_some()).collect();
    let cases: Vec<&[&Row]> = bars.chunk_by(|a, b| a.case == b.case).collect();
    let most = bars.iter().filter_map(|row| row.ratio).fold(1.0, f64::max);
    if cases.is_empty() {
        return None;
    }
    let mut body = String::new();
    let mut y = TOP;
    for case in cases {
        let name = case.first().map_or("", |row| row.case.as_str());
        text(&mut body, (LEFT - 10.0, y + 12.0), "end", name);
        for row in case.iter().filter(|row| row.system != DIRECT) {
            bar(&mut body, y, row, WIDTH / most);
            y += BAR;
        }
        y += GAP;
    }
    let (line, runs) = (LEFT + WIDTH / most, bars.first().map_or(0, |row| row.runs));
    let mut svg = String::new();
    let (width, height) = (LEFT + WIDTH + 90.0, y + 40.0);
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(
        &mut svg,
        (LEFT, 18.0),
        "start",
        "Rates beside the same pods without a mesh (1.00), in the same run",
    );
    svg.push_str(&body);
    let _ = writeln!(
        svg,
        "<line x1=\"{line:.1}\" x2=\"{line:.1}\" y1=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#444\" stroke-dasharray=\"4 3\"/>",
        TOP - 6.0
    );
    let Machine { processors, kernel, date } = machine;
    let below = format!("{processors}, Linux {kernel}, {date}; medians of {runs}");
    text(&mut svg, (LEFT, y + 20.0), "start", &below);
    svg.push_str("</svg>\n");
    Some(svg)
}

fn bar(svg: &mut String, y: f64, row: &Row, scale: f64) {
    let ratio = row.ratio.unwrap_or_default();
    let (fill, length) = (fill(&row.system), ratio * scale);
    let _ = writeln!(
        svg,
        "<rect x=\"{LEFT:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>",
        BAR - 2.0
    );
    text(svg, (LEFT + length + 5.0, y + 12.0), "start", &format!("{ratio:.2} {}", row.system));
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

fn fill(system: &str) -> &'static str {
    match system {
        "relay" => "#b8b8b8",
        "ztunnel" => "#e0a030",
        _ => "#2f6fbd",
    }
}

impl Machine {
    /// This machine, today.
    ///
    /// # Errors
    /// If `/proc` or `date` does not say.
    pub fn here() -> std::io::Result<Self> {
        let about = std::fs::read_to_string("/proc/cpuinfo")?;
        let models: Vec<&str> = about
            .lines()
            .filter(|line| line.starts_with("model name"))
            .filter_map(|l| l.split(": ").nth(1))
            .collect();
        let processors = format!("{} x {}", models.len(), models.first().unwrap_or(&"a processor"));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let date = std::process::Command::new("date").args(["-u", "+%F"]).output()?.stdout;
        Ok(Self { processors, kernel, date: String::from_utf8_lossy(&date).trim().to_owned() })
    }
}

/// Metrics of which more is better.
const RATES: [&str; 3] = ["gbps", "rps", "cps"];
/// What others are compared with.
const DIRECT: &str = "direct";
const LEFT: f64 = 190.0;
const WIDTH: f64 = 480.0;
const TOP: f64 = 40.0;
const BAR: f64 = 17.0;
const GAP: f64 = 9.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, system: &str, metric: &'static str, ratio: Option<f64>) -> Row {
        let (case, system) = (case.to_owned(), system.to_owned());
        let (must, aim, error) = (None, None, None);
        Row { case, system, metric, median: 1.0, min: 1.0, max: 1.0, runs: 3, ratio, must, aim, error }
    }

    fn machine() -> Machine {
        Machine { processors: "2 x A<B".into(), kernel: "6.18".into(), date: "2026-11-22".into() }
    }

    #[test]
    fn each_rate_has_a_bar_and_the_longest_fills_the_width() {
        let rows = [
            row("a/bulk", "direct", "gbps", Some(1.0)),
            row("a/bulk", "mesh", "gbps", Some(1.6)),
            row("a/http", "direct", "rps", Some(1.0)),
            row("a/http", "mesh", "rps", Some(0.8)),
            row("a/http", "mesh", "p50_us", Some(1.3)),
        ];
        let svg = chart(&rows, &machine()).unwrap();
        assert_eq!(svg.matches("<rect").count(), 3, "the ground and two bars: {svg}");
        assert!(svg.contains("width=\"480.0\"") && svg.contains("width=\"240.0\""), "{svg}");
        assert!(svg.contains("x1=\"490.0\""), "the line at 1.00: {svg}");
        assert!(svg.contains("2 x A&lt;B, Linux 6.18, 2026-11-22; medians of 3"), "{svg}");
    }

    #[test]
    fn without_anything_to_compare_there_is_no_picture() {
        assert_eq!(chart(&[row("node/rss", "mesh", "rss_mb", None)], &machine()), None);
    }
}
