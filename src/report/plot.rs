//! Charts of few points with ranges: effects with their confidence intervals, loss against learning rate or size.
//!
//! A [`Plot`] is to results of many runs what a `Figure` is to the course of one: any quantity on either axis, linear or
//! logarithmic, or a list of names on the vertical one; points with horizontal ranges; lines through them. The legend names
//! every series; what lies beyond the plot (a run that diverged) is marked at its top edge and named.

use super::axis::{Axis, Scale};
use super::canvas::{self, Align, Canvas, Size, text_width};
use super::draw::{LABEL_EM, PAD, ROW, Shape, fit, legend_rows, symbol};
use super::figure::{Glyph, Ink};
use super::paint::Paint;
use crate::error::Result;
use plotters::backend::DrawingBackend;

pub use super::draw::{NARROW, WIDE};

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Small pale dots: single runs behind their mean.
    Pale,
    /// Dots in full ink, with their ranges.
    Dots,
    /// A line.
    Line,
    /// A line with dots.
    Both,
}

/// A point, with a horizontal range where it has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spot {
    /// Horizontal value.
    pub x: f64,
    /// Vertical value, or the place in the list of names.
    pub y: f64,
    /// Lower and upper end of its range.
    pub range: Option<(f64, f64)>,
}

/// Points that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The name in the legend; empty to leave it out.
    pub label: String,
    /// Its colour.
    pub ink: Ink,
    /// How it is drawn.
    pub style: Style,
    /// By ascending x where a line goes through them.
    pub spots: Vec<Spot>,
}

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// The headline.
    pub title: String,
    /// What is on the horizontal axis, with the unit.
    pub x_label: String,
    /// What is on the vertical axis, with the unit.
    pub y_label: String,
    /// Whether equal horizontal distances are equal ratios.
    pub x_log: bool,
    /// Names in place of numbers on the vertical axis, from the top.
    pub names: Vec<String>,
    /// Drawn in this order.
    pub groups: Vec<Group>,
    /// Vertical dashed lines: value, label, ink.
    pub verticals: Vec<(f64, String, Ink)>,
    /// Horizontal dashed lines: value, label, ink.
    pub levels: Vec<(f64, String, Ink)>,
    /// Crosses at the top edge: their name in the legend, and where.
    pub beyond: Option<(String, Vec<f64>)>,
}

const TITLE_EM: f64 = 16.0;
/// Height of a named row.
const NAMED_ROW: f64 = 30.0;

enum Swatch {
    Dot(Paint),
    Line(Paint),
    Dashes(Paint),
    Cross(Paint),
}

struct Layout {
    size: Size,
    legend: Vec<(Swatch, String, f64, f64)>,
    left: f64,
    right: f64,
    top: f64,
    /// The upper end of the values; above it are the crosses.
    ceiling: f64,
    bottom: f64,
    x: Axis,
    y: Axis,
}

/// Draws the plot as a PNG file, with two pixels for each logical one.
///
/// # Errors
/// If the charting crate fails.
pub fn png(plot: &Plot) -> Result<Vec<u8>> {
    let layout = Layout::new(plot, WIDE);
    canvas::png(layout.size, |canvas| draw(canvas, plot, &layout))
}

/// Draws the plot as an SVG file.
///
/// # Errors
/// If the charting crate fails.
pub fn svg(plot: &Plot) -> Result<String> {
    let layout = Layout::new(plot, WIDE);
    let attributes = format!("width=\"{}\" height=\"{}\"", layout.size.0, layout.size.1);
    canvas::svg(layout.size, &attributes, |canvas| draw(canvas, plot, &layout))
}

/// Draws the plot as elements of a page: one for wide screens and one for phones, of which the page's style shows one.
///
/// # Errors
/// If the charting crate fails.
pub fn figure_element(plot: &Plot) -> Result<String> {
    let mut element = String::from("<figure>\n");
    for (shape, class) in [(WIDE, "wide"), (NARROW, "narrow")] {
        let layout = Layout::new(plot, shape);
        let label = super::escape::escape(&plot.title);
        let attributes = format!("class=\"{class}\" role=\"img\" aria-label=\"{label}\"");
        element += &canvas::svg(layout.size, &attributes, |canvas| draw(canvas, plot, &layout))?;
    }
    Ok(element + "</figure>\n")
}

impl Layout {
    fn new(plot: &Plot, shape: Shape) -> Self {
        let width = f64::from(shape.width);
        let groups = plot.groups.iter().map(|g| {
            let swatch = match g.style {
                Style::Pale => Swatch::Dot(Paint::Pale(g.ink)),
                Style::Dots => Swatch::Dot(Paint::Ink(g.ink)),
                Style::Line | Style::Both => Swatch::Line(Paint::Ink(g.ink)),
            };
            (swatch, &g.label)
        });
        let dashed =
            plot.verticals.iter().chain(&plot.levels).map(|(_, label, ink)| (Swatch::Dashes(Paint::Ink(*ink)), label));
        let beyond = plot.beyond.iter().map(|(label, _)| (Swatch::Cross(Paint::Ink(4)), label));
        let (legend, y) = legend_rows(groups.chain(dashed).chain(beyond), width);
        let top = y + 14.0;
        let ceiling = top + if plot.beyond.is_some() { ROW } else { 0.0 };
        let named = plot.names.len() as f64 * NAMED_ROW + 12.0;
        let height = if plot.names.is_empty() { f64::from(shape.plot_height) } else { named };
        let bottom = ceiling + height;
        let spots = || plot.groups.iter().flat_map(|g| &g.spots);
        let values = spots().map(|s| s.y).chain(plot.levels.iter().map(|l| l.0));
        let y_axis = match plot.names.is_empty() {
            true => Axis::values(values, Scale::Auto, (height / 44.0) as usize),
            false => {
                let last = plot.names.len() as f64 - 0.3;
                let ticks = plot.names.iter().enumerate();
                let label = |name: &str| fit(name, LABEL_EM, width * 0.34);
                Axis { lo: last, hi: -0.7, log: false, ticks: ticks.map(|(i, name)| (i as f64, label(name))).collect() }
            }
        };
        let labels = y_axis.ticks.iter().map(|(_, label)| text_width(label, LABEL_EM) * 1.1).fold(0.0, f64::max);
        let turned = if plot.y_label.is_empty() { 0.0 } else { LABEL_EM + 10.0 };
        let left = PAD + turned + labels + 8.0;
        let right = width - PAD - 14.0;
        let ends = spots().flat_map(|s| [Some(s.x), s.range.map(|r| r.0), s.range.map(|r| r.1)]).flatten();
        let beyond = plot.beyond.iter().flat_map(|(_, at)| at.iter().copied());
        let along = ends.chain(plot.verticals.iter().map(|v| v.0)).chain(beyond);
        let ticks = ((right - left) / 76.0) as usize;
        let x_axis = if plot.x_log { Axis::log_values(along, ticks) } else { Axis::values(along, Scale::Auto, ticks) };
        let size = (shape.width, (bottom + 48.0).round() as u32);
        Self { size, legend, left, right, top, ceiling, bottom, x: x_axis, y: y_axis }
    }

    fn across(&self, x: f64) -> f64 {
        self.left + self.x.unit(x) * (self.right - self.left)
    }

    fn up(&self, y: f64) -> f64 {
        self.bottom - self.y.unit(y) * (self.bottom - self.ceiling)
    }
}

fn draw<DB: DrawingBackend>(canvas: &Canvas<DB>, plot: &Plot, layout: &Layout) -> Result<()> {
    let (width, height) = (f64::from(layout.size.0), f64::from(layout.size.1));
    canvas.polygon(&[(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)], Paint::Surface)?;
    canvas.text(&fit(&plot.title, TITLE_EM, width - 2.0 * PAD), (PAD, 28.0), TITLE_EM, Align::Start, Paint::Text)?;
    legend(canvas, layout)?;
    axes(canvas, plot, layout, height)?;
    for &(value, _, ink) in &plot.levels {
        canvas.dashes((layout.left, layout.right), layout.up(value), 1.25, Paint::Ink(ink))?;
    }
    for &(value, _, ink) in &plot.verticals {
        let (x, mut y) = (layout.across(value), layout.top);
        while y < layout.bottom {
            canvas.line(&[(x, y), (x, (y + 6.0).min(layout.bottom))], 1.25, Paint::Ink(ink))?;
            y += 10.0;
        }
    }
    plot.groups.iter().try_for_each(|group| series(canvas, group, layout))?;
    for &x in plot.beyond.iter().flat_map(|(_, at)| at) {
        symbol(canvas, Glyph::Cross, (layout.across(x), layout.top + 0.5 * ROW), Paint::Ink(4))?;
    }
    Ok(())
}

fn legend<DB: DrawingBackend>(canvas: &Canvas<DB>, layout: &Layout) -> Result<()> {
    for (swatch, label, x, y) in &layout.legend {
        let middle = y - LABEL_EM * 0.35;
        match *swatch {
            Swatch::Dot(paint) => canvas.dot((x + 9.0, middle), 4.0, paint)?,
            Swatch::Line(paint) => canvas.line(&[(*x, middle), (x + 18.0, middle)], 2.0, paint)?,
            Swatch::Dashes(paint) => canvas.dashes((*x, x + 18.0), middle, 1.25, paint)?,
            Swatch::Cross(paint) => symbol(canvas, Glyph::Cross, (x + 9.0, middle), paint)?,
        }
        canvas.text(label, (x + 24.0, *y), LABEL_EM, Align::Start, Paint::Muted)?;
    }
    Ok(())
}

fn axes<DB: DrawingBackend>(canvas: &Canvas<DB>, plot: &Plot, layout: &Layout, height: f64) -> Result<()> {
    for (value, label) in &layout.y.ticks {
        let y = layout.up(*value);
        canvas.line(&[(layout.left, y), (layout.right, y)], 1.0, Paint::Grid)?;
        canvas.text(label, (layout.left - 8.0, y + LABEL_EM * 0.35), LABEL_EM, Align::End, Paint::Muted)?;
    }
    canvas.line(&[(layout.left, layout.bottom), (layout.right, layout.bottom)], 1.0, Paint::Axis)?;
    let mut free = f64::NEG_INFINITY;
    for (value, label) in &layout.x.ticks {
        let x = layout.across(*value);
        canvas.line(&[(x, layout.bottom), (x, layout.bottom + 4.0)], 1.0, Paint::Axis)?;
        // On a logarithmic axis 1, 2, 5 stand unevenly: a label that would touch the one before is left out.
        let half = 0.55 * text_width(label, LABEL_EM);
        if x - half > free {
            canvas.text(label, (x, layout.bottom + 18.0), LABEL_EM, Align::Middle, Paint::Muted)?;
            free = x + half + 6.0;
        }
    }
    let centre = (layout.left + layout.right) / 2.0;
    let suffix = if layout.x.log { ", log scale" } else { "" };
    let label = fit(&format!("{}{suffix}", plot.x_label), LABEL_EM, f64::from(layout.size.0) - 2.0 * PAD);
    // Centred below the plot, but not beyond the picture where the names on the left are long.
    let half = 0.58 * text_width(&label, LABEL_EM);
    let centre = centre.min(f64::from(layout.size.0) - PAD - half).max(PAD + half);
    canvas.text(&label, (centre, height - 11.0), LABEL_EM, Align::Middle, Paint::Muted)?;
    if plot.y_label.is_empty() {
        return Ok(());
    }
    let suffix = if layout.y.log { ", log scale" } else { "" };
    let label = fit(&format!("{}{suffix}", plot.y_label), LABEL_EM, layout.bottom - layout.top + 20.0);
    let middle = (layout.top + layout.bottom) / 2.0;
    canvas.text(&label, (PAD + LABEL_EM * 0.8, middle), LABEL_EM, Align::Upwards, Paint::Muted)
}

fn series<DB: DrawingBackend>(canvas: &Canvas<DB>, group: &Group, layout: &Layout) -> Result<()> {
    let shown = || group.spots.iter().filter(|spot| spot.x.is_finite() && spot.y.is_finite());
    let (paint, radius) = match group.style {
        Style::Pale => (Paint::Pale(group.ink), 3.0),
        _ => (Paint::Ink(group.ink), 4.0),
    };
    if matches!(group.style, Style::Line | Style::Both) {
        let points: Vec<_> = shown().map(|spot| (layout.across(spot.x), layout.up(spot.y))).collect();
        if points.len() > 1 {
            canvas.line(&points, 2.0, paint)?;
        }
    }
    for spot in shown() {
        let y = layout.up(spot.y);
        if let Some((low, high)) = spot.range {
            let (low, high) = (layout.across(low), layout.across(high));
            canvas.line(&[(low, y), (high, y)], 2.0, paint)?;
            for end in [low, high] {
                canvas.line(&[(end, y - 4.0), (end, y + 4.0)], 2.0, paint)?;
            }
        }
        if group.style != Style::Line {
            canvas.dot((layout.across(spot.x), y), radius, paint)?;
        }
    }
    Ok(())
}
