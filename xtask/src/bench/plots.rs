//! A run as pictures: SVG on white, so that they read well on light and dark pages, in colours that most people can tell
//! apart (Okabe and Ito). A picture without a single line is not made.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::{
    coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
    prelude::*,
};

use super::{
    lines::{Row, Run, Want},
    targets::SIZES,
};

const SIZE: (u32, u32) = (860, 480);
/// A generic family: whoever looks has it.
const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(0, 114, 178);
const SKY: RGBColor = RGBColor(86, 180, 233);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const PURPLE: RGBColor = RGBColor(204, 121, 167);
const GREY: RGBColor = RGBColor(110, 110, 110);

/// A picture under the name the page calls it by.
pub struct Picture {
    pub name: &'static str,
    /// For who cannot see it.
    pub alt: &'static str,
    pub svg: String,
}

struct Chart {
    name: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    /// Logarithmic upwards too, not only to the right.
    logarithmic: bool,
    lines: Vec<Line>,
}

struct Line {
    name: String,
    colour: RGBColor,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

/// The names of all there can be.
#[cfg(test)]
pub const NAMES: [&str; 8] = ["alone-xdp", "alone-tc", "live-4", "live-6", "generator", "stateful", "memory", "times"];

/// All there is something to show in.
pub fn all(run: &Run) -> Result<Vec<Picture>> {
    let charts = [
        alone(run, "xdp", "alone-xdp", "XDP program alone: cost against the number of rules"),
        alone(run, "tc", "alone-tc", "TC program alone: cost against the number of rules"),
        peers(run, "live", 4, "live-4", "Live frames, IPv4: cost against the number of rules"),
        peers(run, "live", 6, "live-6", "Live frames, IPv6: cost against the number of rules"),
        peers(run, "e2e", 4, "generator", "End to end: frames of 64 bytes over a veth, the sender included"),
        stateful(run),
        memory(run),
        times(run),
    ];
    charts.into_iter().filter(|chart| !chart.lines.is_empty()).map(|chart| picture(&chart)).collect()
}

/// A line through the minima of all rows of these sizes.
fn line(run: &Run, name: String, colour: RGBColor, dashed: bool, want: &Want) -> Option<Line> {
    let at = |rules| Some((f64::from(u32::try_from(rules).ok()?), run.row(&want.clone().rules(rules))?.ns_min));
    let points: Vec<_> = SIZES.into_iter().filter_map(at).collect();
    (!points.is_empty()).then_some(Line { name, colour, dashed, points })
}

fn alone(run: &Run, hook: &str, name: &'static str, title: &'static str) -> Chart {
    let mut lines = Vec::new();
    for (family, colours) in [(4, [BLUE, SKY]), (6, [VERMILION, ORANGE])] {
        for (pattern, colour) in ["hot", "random"].into_iter().zip(colours) {
            let want = Want::new(hook, "test_run").family(family).pattern(pattern);
            lines.extend(line(run, format!("nacld, IPv{family}, {pattern}"), colour, false, &want));
        }
    }
    let ends = [1.0, 5000.0];
    for (subject, colour) in [("parse-only", GREY), ("bare", BLACK)] {
        for pattern in ["hot", "random"] {
            let floor = Want::new(subject, "test_run").pattern(pattern).with("hook", hook);
            if let Some(row) = run.row(&floor) {
                let points = ends.map(|end| (end, row.ns_min)).to_vec();
                lines.push(Line {
                    name: format!("{subject}, IPv4, {pattern}"),
                    colour,
                    dashed: pattern == "hot",
                    points,
                });
            }
        }
    }
    Chart { name, title, x: "rules", y: "ns a packet (minimum)", logarithmic: false, lines }
}

fn peers(run: &Run, harness: &str, family: u8, name: &'static str, title: &'static str) -> Chart {
    let subjects = [
        ("xdp", "nacld", BLUE),
        ("linear", "linear scan in XDP", GREEN),
        ("nft-ordered", "nftables, ordered", VERMILION),
        ("nft-set", "nftables, set", ORANGE),
        ("iptables", "iptables", PURPLE),
    ];
    let lines = subjects
        .into_iter()
        .flat_map(|(subject, name, colour)| {
            [("hot", false), ("random", true)].into_iter().filter_map(move |(pattern, dashed)| {
                let want = Want::new(subject, harness).family(family).pattern(pattern);
                line(run, format!("{name}, {pattern}"), colour, dashed, &want)
            })
        })
        .collect();
    Chart { name, title, x: "rules", y: "ns a packet (minimum)", logarithmic: true, lines }
}

fn stateful(run: &Run) -> Chart {
    let plain = |row: &&Row| {
        let flows = row.detail.len() == 1 && row.detail.contains_key("flows");
        row.harness == "test_run" && row.mode != "stateless" && flows
    };
    let rows: Vec<_> = run.rows.iter().filter(plain).collect();
    // What is the same everywhere need not be said of each line.
    let several_sizes = rows.iter().any(|row| row.rules != rows[0].rules);
    let several_patterns = rows.iter().any(|row| row.pattern != rows[0].pattern);
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let Some(flows) = row.detail("flows").and_then(|flows| flows.parse().ok()) else { continue };
        let mut name = format!("{}, {}, IPv{}", row.subject, row.mode, row.family);
        if several_sizes {
            name = format!("{name}, N = {}", row.rules);
        }
        if several_patterns {
            name = format!("{name}, {}", row.pattern);
        }
        let at = lines.iter().position(|line| line.name == name).unwrap_or_else(|| {
            let colours = [BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, GREY, BLACK];
            let (colour, dashed) = (colours[lines.len() % colours.len()], lines.len() >= colours.len());
            lines.push(Line { name, colour, dashed, points: Vec::new() });
            lines.len() - 1
        });
        lines[at].points.push((flows, row.ns_min));
    }
    Chart {
        name: "stateful",
        title: "Stateful: cost against connections in the table",
        x: "connections",
        y: "ns a packet (minimum)",
        logarithmic: false,
        lines,
    }
}

fn memory(run: &Run) -> Chart {
    let mut lines = Vec::new();
    for (shape, colour) in [("typical", BLUE), ("adversarial", VERMILION)] {
        for (form, dashed) in [("tables", false), ("rows", true)] {
            let of = |line: &&super::lines::Memory| {
                line.shape == shape && line.form == form && line.of == "generation" && line.interfaces == 1
            };
            let points: Vec<_> = run
                .memory
                .iter()
                .filter(of)
                .map(|line| (line.rules as f64, line.bytes as f64 / 1024.0))
                .filter(|(rules, bytes)| *rules > 0.0 && *bytes > 0.0)
                .collect();
            if !points.is_empty() {
                lines.push(Line { name: format!("{shape}, {form}"), colour, dashed, points });
            }
        }
    }
    let title = "A generation in the kernel: size against the number of rules";
    Chart { name: "memory", title, x: "rules", y: "KiB", logarithmic: true, lines }
}

fn times(run: &Run) -> Chart {
    let mut lines = Vec::new();
    for (what, colour) in [("reload", BLUE), ("compile", VERMILION), ("upload", GREEN), ("switch", ORANGE)] {
        for (shape, dashed) in [("typical", false), ("adversarial", true)] {
            let points: Vec<_> = run
                .times
                .iter()
                .filter(|time| time.what == what && time.shape == shape && time.rules > 0)
                .map(|time| (time.rules as f64, time.us_median / 1000.0))
                .collect();
            if !points.is_empty() {
                lines.push(Line { name: format!("{what}, {shape}"), colour, dashed, points });
            }
        }
    }
    let title = "From text to in force: time against the number of rules";
    Chart { name: "times", title, x: "rules", y: "ms (median)", logarithmic: true, lines }
}

/// Where lines begin and end.
fn range(chart: &Chart, of: impl Fn(&(f64, f64)) -> f64) -> Range<f64> {
    let all = || chart.lines.iter().flat_map(|line| &line.points).map(&of);
    all().fold(f64::MAX, f64::min)..all().fold(f64::MIN, f64::max)
}

fn picture(chart: &Chart) -> Result<Picture> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(wrong)?;
        let across = range(chart, |point| point.0);
        let up = range(chart, |point| point.1);
        // Room for one point, and above the highest for the lines' names.
        let across = Decades { from: across.start / 1.2, to: across.end.max(across.start * 2.0) * 1.2 };
        let mut builder = ChartBuilder::on(&area);
        builder
            .caption(chart.title, (FONT, 19))
            .margin(12)
            .margin_right(250)
            .x_label_area_size(46)
            .y_label_area_size(70);
        if chart.logarithmic {
            let up = Decades { from: up.start / 1.5, to: up.end.max(up.start * 2.0) * 1.5 };
            draw(&mut builder.build_cartesian_2d(across, up).map_err(wrong)?, chart)?;
        } else {
            draw(&mut builder.build_cartesian_2d(across, 0.0..up.end * 1.1).map_err(wrong)?, chart)?;
        }
        names(&area, chart)?;
        area.present().map_err(wrong)?;
    }
    // One line of text a page's diff can show, and no spaces at the ends of lines.
    let svg = svg.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    Ok(Picture { name: chart.name, alt: chart.title, svg })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw<X, Y>(context: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>, chart: &Chart) -> Result<()>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    context
        .configure_mesh()
        .x_desc(chart.x)
        .y_desc(chart.y)
        .x_label_formatter(&|value| label(*value))
        .y_label_formatter(&|value| label(*value))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .bold_line_style(RGBColor(215, 215, 215))
        .max_light_lines(1)
        .draw()
        .map_err(wrong)?;
    for line in &chart.lines {
        let style = line.colour.stroke_width(2);
        let points = line.points.iter().copied();
        if line.dashed {
            context.draw_series(DashedLineSeries::new(points.clone(), 6, 4, style)).map_err(wrong)?;
        } else {
            context.draw_series(LineSeries::new(points.clone(), style)).map_err(wrong)?;
        }
        context.draw_series(points.map(|point| Circle::new(point, 3, line.colour.filled()))).map_err(wrong)?;
    }
    Ok(())
}

/// The lines' names beside the chart, the highest at its right end first.
fn names(area: &Area<'_>, chart: &Chart) -> Result<()> {
    let mut lines: Vec<_> = chart.lines.iter().collect();
    lines.sort_by(|a, b| {
        let end = |line: &Line| line.points.last().map_or(0.0, |point| point.1);
        end(b).total_cmp(&end(a))
    });
    let left = SIZE.0.cast_signed() - 240;
    for (line, place) in lines.into_iter().zip(0_i32..) {
        let y = 60 + place * 22;
        let style = line.colour.stroke_width(2);
        let segments: &[(i32, i32)] = if line.dashed { &[(0, 7), (11, 18), (22, 28)] } else { &[(0, 28)] };
        for (from, to) in segments {
            area.draw(&PathElement::new(vec![(left + from, y), (left + to, y)], style)).map_err(wrong)?;
        }
        area.draw(&Text::new(line.name.clone(), (left + 36, y - 7), (FONT, 14))).map_err(wrong)?;
    }
    Ok(())
}

fn label(value: f64) -> String {
    if value >= 1e6 {
        format!("{}M", value / 1e6)
    } else if value >= 1e4 {
        format!("{}k", value / 1e3)
    } else {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// plotters' errors borrow what they are about.
fn wrong(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a picture: {error}")
}

/// A logarithmic axis with a mark at 1, 2 and 5 of each decade: plotters' own has one a decade, too few for short ones.
struct Decades {
    from: f64,
    to: f64,
}

impl Ranged for Decades {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value / self.from).ln() / (self.to / self.from).ln();
        limit.0 + (share * f64::from(limit.1 - limit.0)) as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let decades =
            || (self.from.log10().floor() as i32..=self.to.log10().ceil() as i32).map(|power| 10_f64.powi(power));
        let inside = |value: &f64| (self.from..=self.to).contains(value);
        let steps: &[f64] = if (self.to / self.from).log10() <= 4.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        decades().flat_map(|decade| steps.iter().map(move |step| decade * step)).filter(inside).collect()
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Decades {
    fn format(value: &f64) -> String {
        label(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(subject: &str, harness: &str, rules: usize, ns_min: f64) -> Row {
        Row {
            subject: subject.into(),
            harness: harness.into(),
            mode: "stateless".into(),
            family: 4,
            rules,
            pattern: "hot".into(),
            ns_min,
            ..Row::default()
        }
    }

    #[test]
    fn there_are_pictures_of_what_there_is() {
        assert!(all(&Run::default()).expect("no picture").is_empty());
        let rows =
            vec![row("xdp", "live", 20, 60.0), row("iptables", "live", 20, 300.0), row("iptables", "live", 1000, 5e3)];
        let pictures = all(&Run { rows, ..Run::default() }).expect("pictures");
        let [picture] = pictures.as_slice() else { panic!("{} pictures", pictures.len()) };
        assert_eq!(picture.name, "live-4");
        assert!(NAMES.contains(&picture.name));
        assert!(picture.svg.contains("iptables, hot") && picture.svg.contains("nacld, hot"));
        assert!(!picture.svg.contains("linear") && !picture.svg.contains("NaN"));
        assert_eq!(picture.svg.matches("<circle").count(), 3, "one mark a figure");
    }
}
