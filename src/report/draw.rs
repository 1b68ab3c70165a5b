//! A figure into pixels: title and legend on top, then the plot with its axes, in any size from a phone up.

use super::axis::Axis;
use super::canvas::{self, Align, Canvas, Size, text_width};
use super::figure::{Extent, Figure, Glyph, Kind, Marks, Series, envelope};
use super::paint::Paint;
use crate::error::Result;
use plotters::backend::DrawingBackend;

/// The room that a chart is drawn for. Its height follows: legend and marks get what they need, the plot what is said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Width of the whole chart in logical pixels.
    pub width: u32,
    /// Height of the plot alone, without the rows of marks.
    pub plot_height: u32,
}

/// The shape of charts on their own and on a wide page.
pub const WIDE: Shape = Shape { width: 960, plot_height: 400 };
/// The shape of charts on a phone.
pub const NARROW: Shape = Shape { width: 420, plot_height: 220 };

const TITLE_EM: f64 = 16.0;
pub(super) const LABEL_EM: f64 = 12.5;
/// Space from the edges of the picture.
pub(super) const PAD: f64 = 14.0;
/// Height of a row of the legend, and of a row of marks at the top edge.
pub(super) const ROW: f64 = 19.0;

/// Draws the figure as a PNG file, with two pixels for each logical one.
pub fn png(figure: &Figure) -> Result<Vec<u8>> {
    let sheet = Sheet::new(figure, WIDE);
    canvas::png(sheet.size, |canvas| draw(canvas, figure, &sheet))
}

/// Draws the figure as an SVG file.
pub fn svg(figure: &Figure) -> Result<String> {
    let sheet = Sheet::new(figure, WIDE);
    let attributes = format!("width=\"{}\" height=\"{}\"", sheet.size.0, sheet.size.1);
    canvas::svg(sheet.size, &attributes, |canvas| draw(canvas, figure, &sheet))
}

/// Draws the figure as an element of a page, which gives it its width.
pub fn inline_svg(figure: &Figure, shape: Shape, class: &str) -> Result<String> {
    let attributes = format!("class=\"{class}\" role=\"img\" aria-label=\"{}\"", super::escape::escape(&figure.title));
    let sheet = Sheet::new(figure, shape);
    canvas::svg(sheet.size, &attributes, |canvas| draw(canvas, figure, &sheet))
}

/// How the legend shows a thing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Swatch {
    Area(Paint),
    Line(Paint),
    Dashes(Paint),
    Mark(Glyph, Paint),
}

/// A chart's outer layout: the legend broken into rows, and the height that comes of it.
struct Sheet {
    size: Size,
    /// Each entry with its left end and its baseline.
    legend: Vec<(Swatch, String, f64, f64)>,
    /// The upper edge of the plot, rows of marks included.
    top: f64,
    /// The upper edge of what the axes span.
    ceiling: f64,
    /// The lower edge of the plot.
    bottom: f64,
}

impl Sheet {
    fn new(figure: &Figure, shape: Shape) -> Self {
        let width = f64::from(shape.width);
        let series = figure.series.iter().map(|s| match s.kind {
            Kind::Raw => (Swatch::Area(Paint::Pale(s.ink)), &s.label),
            Kind::Glass => (Swatch::Area(Paint::Glass(s.ink)), &s.label),
            Kind::Line | Kind::Dots => (Swatch::Line(Paint::Ink(s.ink)), &s.label),
        });
        let levels = figure.levels.iter().map(|(_, label, ink)| (Swatch::Dashes(Paint::Ink(*ink)), label));
        let marks = figure.marks.iter().map(|m| (Swatch::Mark(m.glyph, Paint::Ink(m.ink)), &m.label));
        let (legend, y) = legend_rows(series.chain(levels).chain(marks), width);
        let rows = figure.marks.iter().filter(|m| m.glyph != Glyph::Tick).count() as f64;
        let top = y + 14.0;
        let ceiling = top + rows * ROW;
        let bottom = ceiling + f64::from(shape.plot_height);
        Self { size: (shape.width, (bottom + 48.0).round() as u32), legend, top, ceiling, bottom }
    }
}

/// Breaks a legend into rows: each entry with its left end and its baseline, and the baseline of the last row. Entries
/// without a label are left out.
pub(super) fn legend_rows<'l, S>(
    entries: impl Iterator<Item = (S, &'l String)>,
    width: f64,
) -> (Vec<(S, String, f64, f64)>, f64) {
    let (mut x, mut y) = (PAD, 28.0 + ROW + 3.0);
    let mut legend = Vec::new();
    for (swatch, label) in entries.filter(|(_, label)| !label.is_empty()) {
        let label = fit(label, LABEL_EM, width - 2.0 * PAD - 26.0);
        // The reader's own font may be a sixth wider than ours.
        let wide = 24.0 + text_width(&label, LABEL_EM) * 1.16;
        if x > PAD && x + wide > width - PAD {
            (x, y) = (PAD, y + ROW);
        }
        legend.push((swatch, label, x, y));
        x += wide + 18.0;
    }
    (legend, y)
}

/// The plot's own area, and the axes that lie along it.
struct Plot {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// The upper end of the value axis; above it are the rows of marks.
    ceiling: f64,
    x: Axis,
    y: Axis,
}

impl Plot {
    fn width(&self) -> f64 {
        self.right - self.left
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.left + self.x.unit(x) * self.width(), self.bottom - self.y.unit(y) * (self.bottom - self.ceiling))
    }
}

fn draw<DB: DrawingBackend>(canvas: &Canvas<DB>, figure: &Figure, sheet: &Sheet) -> Result<()> {
    let (width, height) = (f64::from(sheet.size.0), f64::from(sheet.size.1));
    let frame = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)];
    canvas.polygon(&frame, Paint::Surface)?;
    canvas.text(&fit(&figure.title, TITLE_EM, width - 2.0 * PAD), (PAD, 28.0), TITLE_EM, Align::Start, Paint::Text)?;
    legend(canvas, sheet)?;

    let plot = layout(figure, sheet);
    axes(canvas, figure, &plot, height)?;
    for series in figure.series.iter().filter(|s| is_raw(s)) {
        raw(canvas, series, &plot)?;
    }
    for &(value, _, ink) in &figure.levels {
        let (_, y) = plot.place((0.0, value));
        canvas.dashes((plot.left, plot.right), y, 1.25, Paint::Ink(ink))?;
    }
    for series in figure.series.iter().filter(|s| !is_raw(s)) {
        line(canvas, series, &plot)?;
    }
    let (often, seldom): (Vec<_>, Vec<_>) = figure.marks.iter().partition(|marks| marks.glyph == Glyph::Tick);
    for marks in often {
        rug(canvas, marks, &plot)?;
    }
    seldom.into_iter().enumerate().try_for_each(|(row, marks)| mark(canvas, marks, &plot, row))
}

fn is_raw(series: &Series) -> bool {
    matches!(series.kind, Kind::Raw | Kind::Glass)
}

/// Shortens a text to a width, with an ellipsis.
pub(super) fn fit(text: &str, em: f64, width: f64) -> String {
    // Control characters would make the SVG unreadable.
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text_width(&text, em) <= width {
        return text;
    }
    while !text.is_empty() && text_width(&text, em) + em > width {
        text.pop();
    }
    text + "…"
}

fn legend<DB: DrawingBackend>(canvas: &Canvas<DB>, sheet: &Sheet) -> Result<()> {
    for &(swatch, ref label, x, y) in &sheet.legend {
        let middle = y - LABEL_EM * 0.35;
        match swatch {
            Swatch::Area(paint) => {
                let (top, bottom) = (middle - 4.0, middle + 4.0);
                canvas.polygon(&[(x, top), (x + 18.0, top), (x + 18.0, bottom), (x, bottom)], paint)?;
            }
            Swatch::Line(paint) => canvas.line(&[(x, middle), (x + 18.0, middle)], 2.0, paint)?,
            Swatch::Dashes(paint) => canvas.dashes((x, x + 18.0), middle, 1.25, paint)?,
            Swatch::Mark(glyph, paint) => symbol(canvas, glyph, (x + 9.0, middle), paint)?,
        }
        canvas.text(label, (x + 24.0, y), LABEL_EM, Align::Start, Paint::Muted)?;
    }
    Ok(())
}

/// Chooses axes for what is shown, and the plot's place for the labels of those axes.
fn layout(figure: &Figure, sheet: &Sheet) -> Plot {
    let points = figure.series.iter().flat_map(|s| s.points.iter().copied());
    let across = points.clone().map(|p| p.0).chain(figure.marks.iter().flat_map(|m| m.at.iter().map(|a| a.0)));
    let values = points.map(|p| p.1).chain(figure.levels.iter().map(|l| l.0));
    let height = sheet.bottom - sheet.ceiling;
    let y = Axis::values(values, figure.scale, (height / 44.0) as usize);
    let labels = y.ticks.iter().map(|(_, label)| text_width(label, LABEL_EM) * 1.1).fold(0.0, f64::max);
    // The label of the axis runs upwards at the left edge, the labels of the ticks stand between it and the plot.
    let left = PAD + LABEL_EM + 10.0 + labels + 8.0;
    let right = f64::from(sheet.size.0) - PAD - 14.0;
    let x = figure.across.axis(across, ((right - left) / 84.0) as usize);
    Plot { left, right, top: sheet.top, ceiling: sheet.ceiling, bottom: sheet.bottom, x, y }
}

fn axes<DB: DrawingBackend>(canvas: &Canvas<DB>, figure: &Figure, plot: &Plot, height: f64) -> Result<()> {
    for (value, label) in &plot.y.ticks {
        let (_, y) = plot.place((0.0, *value));
        canvas.line(&[(plot.left, y), (plot.right, y)], 1.0, Paint::Grid)?;
        canvas.text(label, (plot.left - 8.0, y + LABEL_EM * 0.35), LABEL_EM, Align::End, Paint::Muted)?;
    }
    canvas.line(&[(plot.left, plot.bottom), (plot.right, plot.bottom)], 1.0, Paint::Axis)?;
    for (value, label) in &plot.x.ticks {
        let (x, _) = plot.place((*value, 0.0));
        canvas.line(&[(x, plot.bottom), (x, plot.bottom + 4.0)], 1.0, Paint::Axis)?;
        canvas.text(label, (x, plot.bottom + 18.0), LABEL_EM, Align::Middle, Paint::Muted)?;
    }
    let centre = (plot.left + plot.right) / 2.0;
    let suffix = if plot.x.log { ", log scale" } else { "" };
    let label = fit(&format!("{}{suffix}", figure.across.label()), LABEL_EM, plot.width());
    canvas.text(&label, (centre, height - 11.0), LABEL_EM, Align::Middle, Paint::Muted)?;
    let suffix = if plot.y.log { ", log scale" } else { "" };
    let label = fit(&format!("{}{suffix}", figure.y_label), LABEL_EM, plot.bottom - plot.top + 20.0);
    let middle = (plot.top + plot.bottom) / 2.0;
    canvas.text(&label, (PAD + LABEL_EM * 0.8, middle), LABEL_EM, Align::Upwards, Paint::Muted)
}

/// Raw values: their line, or where there are more of them than pixels the area between smallest and largest.
fn raw<DB: DrawingBackend>(canvas: &Canvas<DB>, series: &Series, plot: &Plot) -> Result<()> {
    let paint = if series.kind == Kind::Glass { Paint::Glass(series.ink) } else { Paint::Pale(series.ink) };
    let columns = plot.width() as usize;
    if series.points.len() <= columns {
        for part in parts(&series.points) {
            let points: Vec<_> = part.iter().map(|&p| plot.place(p)).collect();
            canvas.line(&points, 1.0, paint)?;
            if let [alone] = points[..] {
                canvas.dot(alone, 1.0, paint)?;
            }
        }
        return Ok(());
    }
    let extents = envelope(&series.points, plot.x.lo, plot.x.hi, columns);
    // An empty column is a gap; so a part is a run of neighbouring columns.
    for part in extents.chunk_by(|a, b| a.column + 1 == b.column) {
        let (mut above, mut below) = (Vec::new(), Vec::new());
        let mut before: Option<&Extent> = None;
        for extent in part {
            // The line from the last value of one column to the first of the next crosses what lies between their
            // extents, if they do not overlap.
            let (min, max) =
                before.map_or((extent.min, extent.max), |b| (extent.min.min(b.max), extent.max.max(b.min)));
            // Half a pixel more on each side: a column whose values are all equal is a line, not nothing.
            let (top, bottom) = (plot.place((0.0, max)).1 - 0.5, plot.place((0.0, min)).1 + 0.5);
            let x = |column: usize| plot.left + column as f64 / columns as f64 * plot.width();
            let (left, right) = (x(extent.column), x(extent.column + 1));
            above.extend([(left, top), (right, top)]);
            below.extend([(left, bottom), (right, bottom)]);
            before = Some(extent);
        }
        below.reverse();
        above.extend(below);
        canvas.polygon(&above, paint)?;
    }
    Ok(())
}

fn line<DB: DrawingBackend>(canvas: &Canvas<DB>, series: &Series, plot: &Plot) -> Result<()> {
    let paint = Paint::Ink(series.ink);
    let dots = series.kind == Kind::Dots && (series.points.len() as f64) * 9.0 < plot.width();
    for part in parts(&series.points) {
        let mut points: Vec<_> = part.iter().map(|&p| plot.place(p)).collect();
        let alone = points.len() == 1;
        if dots || alone {
            for &point in &points {
                canvas.dot(point, if alone { 3.5 } else { 2.5 }, paint)?;
            }
        }
        thin(&mut points);
        if !alone {
            canvas.line(&points, 2.0, paint)?;
        }
    }
    Ok(())
}

/// The stretches of points between values that are not finite.
fn parts(points: &[(f64, f64)]) -> impl Iterator<Item = &[(f64, f64)]> {
    points.split(|(_, y)| !y.is_finite()).filter(|part| !part.is_empty())
}

/// Leaves out points in the middle of three within a quarter pixel's width that go neither up nor down: a long smooth
/// line (a learning rate of a million steps) looks the same with a few thousand points.
fn thin(points: &mut Vec<(f64, f64)>) {
    let mut kept: Vec<(f64, f64)> = Vec::with_capacity(points.len().min(8192));
    for (i, &point) in points.iter().enumerate() {
        let ends = i == 0 || i + 1 == points.len();
        let near = |a: &(f64, f64)| (point.0 - a.0).abs() < 0.25 && (point.1 - a.1).abs() < 0.25;
        if ends || !kept.last().is_some_and(near) {
            kept.push(point);
        }
    }
    *points = kept;
}

/// Height of the rug at the bottom edge where every step is marked.
const RUG: f64 = 9.0;

/// Draws marks along the bottom edge: in each column of pixels as high as the share of its steps that are marked.
fn rug<DB: DrawingBackend>(canvas: &Canvas<DB>, marks: &Marks, plot: &Plot) -> Result<()> {
    let mut counts = vec![0.0; plot.width().ceil() as usize + 1];
    for (step, _) in &marks.at {
        counts[(plot.x.unit(*step) * plot.width()) as usize] += 1.0;
    }
    let steps_per_column = ((plot.x.hi - plot.x.lo) / plot.width()).max(1.0);
    for (column, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0.0) {
        let (x, share) = (plot.left + column as f64, (count / steps_per_column).min(1.0));
        canvas.line(&[(x, plot.bottom - (RUG * share).max(1.0)), (x, plot.bottom)], 1.0, Paint::Ink(marks.ink))?;
    }
    Ok(())
}

/// Draws marks at the top edge: those of one kind in one row, each where the last one leaves room, as are their texts.
fn mark<DB: DrawingBackend>(canvas: &Canvas<DB>, marks: &Marks, plot: &Plot, row: usize) -> Result<()> {
    let paint = Paint::Ink(marks.ink);
    let (gap, y) = (5.0, plot.top + (row as f64 + 0.5) * ROW);
    let (mut free, mut text_free) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for (i, (step, text)) in marks.at.iter().enumerate() {
        let (x, _) = plot.place((*step, 0.0));
        if x < free {
            continue;
        }
        free = x + gap;
        symbol(canvas, marks.glyph, (x, y), paint)?;
        let wide = text_width(text, 11.0) * 1.16 + 8.0;
        // A text must fit before the next mark of its row too, or it would be struck through.
        let next = marks.at[i + 1..].iter().map(|a| plot.place((a.0, 0.0)).0).find(|next| *next >= free);
        let room = next.is_none_or(|next| next > x + 4.0 + wide);
        if text.is_empty() || x < text_free {
            continue;
        }
        if room && x + wide < plot.right + PAD {
            canvas.text(text, (x + 7.0, y + 4.0), 11.0, Align::Start, paint)?;
            text_free = x + wide + 8.0;
        } else if i == 0 && x - wide > plot.left {
            canvas.text(text, (x - 7.0, y + 4.0), 11.0, Align::End, paint)?;
            text_free = x;
        }
    }
    Ok(())
}

/// Draws a mark.
pub(super) fn symbol<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    glyph: Glyph,
    (x, y): (f64, f64),
    paint: Paint,
) -> Result<()> {
    let r = 4.0;
    match glyph {
        Glyph::Triangle => canvas.polygon(&[(x - r, y + r), (x, y - r), (x + r, y + r)], paint),
        Glyph::Diamond => canvas.polygon(&[(x - r, y), (x, y - r), (x + r, y), (x, y + r)], paint),
        Glyph::Cross => {
            let r = 3.25;
            canvas.line(&[(x - r, y - r), (x + r, y + r)], 1.75, paint)?;
            canvas.line(&[(x - r, y + r), (x + r, y - r)], 1.75, paint)
        }
        Glyph::Tick => canvas.line(&[(x, y - 4.0), (x, y + 4.0)], 1.0, paint),
    }
}
