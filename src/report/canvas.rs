//! A drawing surface in logical pixels, over the two backends of the charting crate: bitmap and SVG.
//!
//! The one idea: both backends take whole pixels only, so everything is drawn four times as large. The SVG then says in
//! its header how large it is meant to be, and its lines are placed to a quarter of a pixel; the bitmap is averaged down
//! by two, which smooths every edge, and ends up twice as large as the chart, for sharp screens.
//!
//! Unusual: text is placed by its baseline, because the two backends understand "top" and "centre" differently; and a
//! thick line in a bitmap is drawn segment by segment with round joints, because the crate's outline of a whole thick
//! path tears at sharp corners, of which a loss curve is made.

use super::paint::Paint;
use crate::error::{Error, Result};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color, FontStyle, FontTransform, IntoFont, RGBAColor, RGBColor, ShapeStyle, TextStyle, register_font,
};
use std::sync::OnceLock;

/// Device pixels of the drawing for each logical pixel.
const SCALE: f64 = 4.0;
/// Width and height of a drawing in logical pixels.
pub type Size = (u32, u32);

/// Where text stands relative to its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// It begins there.
    Start,
    /// It is centred there.
    Middle,
    /// It ends there.
    End,
    /// It is centred there, and runs upwards.
    Upwards,
}

/// A surface to draw on. Coordinates and lengths are logical pixels, from the top left.
pub struct Canvas<'a, DB: DrawingBackend> {
    area: &'a DrawingArea<DB, Shift>,
    /// Whether pixels are made here, rather than by whoever shows the SVG.
    bitmap: bool,
}

impl<DB: DrawingBackend> Canvas<'_, DB> {
    /// A line through the points.
    pub fn line(&self, points: &[(f64, f64)], width: f64, paint: Paint) -> Result<()> {
        let style = style(paint, width);
        if !self.bitmap {
            return self.area.draw(&PathElement::new(pixels(points), style)).map_err(failed);
        }
        for pair in points.windows(2) {
            self.area.draw(&PathElement::new(pixels(pair), style)).map_err(failed)?;
        }
        if width > 1.0 {
            for &point in points {
                self.dot(point, width / 2.0, paint)?;
            }
        }
        Ok(())
    }

    /// A dashed horizontal line.
    pub fn dashes(&self, (x0, x1): (f64, f64), y: f64, width: f64, paint: Paint) -> Result<()> {
        let mut x = x0;
        while x < x1 {
            self.line(&[(x, y), ((x + 6.0).min(x1), y)], width, paint)?;
            x += 10.0;
        }
        Ok(())
    }

    /// A filled polygon.
    pub fn polygon(&self, points: &[(f64, f64)], paint: Paint) -> Result<()> {
        self.area.draw(&Polygon::new(pixels(points), color(paint).filled())).map_err(failed)
    }

    /// A filled circle.
    pub fn dot(&self, center: (f64, f64), radius: f64, paint: Paint) -> Result<()> {
        let radius = (radius * SCALE).round() as i32;
        self.area.draw(&Circle::new(pixel(center), radius, color(paint).filled())).map_err(failed)
    }

    /// A line of text, `em` logical pixels large, on a baseline.
    pub fn text(&self, text: &str, (x, y): (f64, f64), em: f64, align: Align, paint: Paint) -> Result<()> {
        // By the source of the backends: the baseline lies half a font size below the top of the text in a bitmap, and
        // 0.76 em in an SVG; a font size is the height of a line in the former, and 1.24 em in the latter.
        let (size, baseline) =
            if self.bitmap { (em * LINE_HEIGHT, em * LINE_HEIGHT / 2.0) } else { (em * 1.24, em * 0.76) };
        let (at, h_pos, turn) = match align {
            Align::Start => ((x, y - baseline), HPos::Left, FontTransform::None),
            Align::Middle => ((x, y - baseline), HPos::Center, FontTransform::None),
            Align::End => ((x, y - baseline), HPos::Right, FontTransform::None),
            Align::Upwards => ((x - baseline, y), HPos::Center, FontTransform::Rotate270),
        };
        let color = color(paint);
        let style = TextStyle::from(("sans-serif", size * SCALE).into_font().transform(turn))
            .color(&color)
            .pos(Pos::new(h_pos, VPos::Top));
        self.area.draw_text(text, &style, pixel(at)).map_err(failed)
    }
}

/// The height of a line of the embedded font, in em (its ascent and descent, 932 and 189 of 1000).
const LINE_HEIGHT: f64 = 1.121;

/// The width of a line of text in the embedded font. Readers of an SVG see another font: leave some room.
pub fn text_width(text: &str, em: f64) -> f64 {
    register_fonts();
    // Measured large, since the answer comes in whole pixels.
    let style = TextStyle::from(("sans-serif", 100.0 * LINE_HEIGHT).into_font());
    let measured = style.font.box_size(text).map_or(text.chars().count() as f64 * 60.0, |(width, _)| f64::from(width));
    measured / 100.0 * em
}

/// Draws a PNG, twice as large in pixels as `size`, and gives the bytes of the file.
pub fn png(size: Size, draw: impl FnOnce(&Canvas<BitMapBackend>) -> Result<()>) -> Result<Vec<u8>> {
    register_fonts();
    let (width, height) = device_size(size);
    let mut pixels = vec![0xFF; 3 * width as usize * height as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        draw(&Canvas { area: &area, bitmap: true })?;
        area.present().map_err(failed)?;
    }
    Ok(super::png::encode(&super::png::halve(&pixels, width as usize), width / 2, height / 2))
}

/// Draws an SVG. The root element has `attributes` in place of a size.
pub fn svg(size: Size, attributes: &str, draw: impl FnOnce(&Canvas<SVGBackend>) -> Result<()>) -> Result<String> {
    register_fonts();
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, device_size(size)).into_drawing_area();
        draw(&Canvas { area: &area, bitmap: false })?;
        area.present().map_err(failed)?;
    }
    // "<svg width="W" height="H" viewBox=...": the drawing's own size gives way to the one it is meant to have.
    let at = text.find("viewBox=").unwrap_or(0);
    Ok(format!("<svg {attributes} {}", &text[at..]))
}

fn device_size((width, height): Size) -> Size {
    (width * SCALE as u32, height * SCALE as u32)
}

fn register_fonts() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // A font that could not be parsed would show as an error of the first text that is drawn.
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
}

fn color(paint: Paint) -> RGBAColor {
    let ([r, g, b], _) = paint.versions();
    RGBColor(r, g, b).mix(paint.opacity())
}

fn style(paint: Paint, width: f64) -> ShapeStyle {
    color(paint).stroke_width((width * SCALE).round().max(1.0) as u32)
}

fn pixel((x, y): (f64, f64)) -> (i32, i32) {
    ((x * SCALE).round() as i32, (y * SCALE).round() as i32)
}

fn pixels(points: &[(f64, f64)]) -> Vec<(i32, i32)> {
    points.iter().copied().map(pixel).collect()
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::io("draw", "the chart")(std::io::Error::other(error.to_string()))
}
