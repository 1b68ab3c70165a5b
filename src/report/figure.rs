//! What a chart shows, before anybody draws it: series, lines, marks and labels, for one run or several overlaid.
//!
//! A chart is a pure function from runs to a [`Figure`]; how it looks in pixels is the business of `draw`. Here are also
//! the two ways to show more points than pixels honestly: the min/max envelope, which loses no extreme, and the mean
//! or median over a window.

/// A colour of the palette, by its number; the same number is the same hue in light and dark.
pub type Ink = usize;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every value, in a pale ink: a line, or the min/max envelope where there are more points than pixels.
    Raw,
    /// The same, so that what lies below shows through: for several runs overlaid.
    Glass,
    /// A line in full ink.
    Line,
    /// A line in full ink with a dot at each point, as long as the dots do not touch.
    Dots,
}

/// Values against steps, or against what the figure says.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The name in the legend; empty to leave it out.
    pub label: String,
    /// Its colour.
    pub ink: Ink,
    /// How it is drawn.
    pub kind: Kind,
    /// Step (or what else the axis measures) and value, ascending. A value that is not finite breaks the line.
    pub points: Vec<(f64, f64)>,
}

/// The form of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glyph {
    /// A triangle pointing up, at the top edge: an infinity.
    Triangle,
    /// A cross at the top edge: not a number.
    Cross,
    /// A diamond at the top edge.
    Diamond,
    /// A tick at the bottom edge, for what happens often; as high as the share of the steps there that are marked.
    Tick,
}

/// Steps that are marked at an edge of the chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Marks {
    /// The name in the legend.
    pub label: String,
    /// Their colour.
    pub ink: Ink,
    /// Their form and edge.
    pub glyph: Glyph,
    /// The steps, ascending, each with the text that stands next to the mark where there is room ("inf").
    pub at: Vec<(f64, String)>,
}

/// A chart, ready to be drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The headline.
    pub title: String,
    /// What the values are, with the unit.
    pub y_label: String,
    /// The layout of the value axis.
    pub scale: super::axis::Scale,
    /// What the horizontal axis measures.
    pub across: super::axis::Across,
    /// Drawn in this order.
    pub series: Vec<Series>,
    /// Horizontal dashed lines: value, label, ink.
    pub levels: Vec<(f64, String, Ink)>,
    /// Marks at the edges.
    pub marks: Vec<Marks>,
}

impl Figure {
    /// Whether there is anything to see.
    pub fn is_empty(&self) -> bool {
        self.series.iter().all(|s| s.points.is_empty()) && self.marks.iter().all(|m| m.at.is_empty())
    }
}

/// The values of one column of pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    /// The column, from 0.
    pub column: usize,
    /// The smallest finite value in it.
    pub min: f64,
    /// The largest finite value in it.
    pub max: f64,
}

/// The smallest and largest finite value in each of `columns` equal parts of the steps from `lo` to `hi`; columns without
/// a finite value are left out. `points` need not be sorted; those outside the range count to the nearest column.
pub fn envelope(points: &[(f64, f64)], lo: f64, hi: f64, columns: usize) -> Vec<Extent> {
    let mut extents = vec![(f64::INFINITY, f64::NEG_INFINITY); columns.max(1)];
    let width = (hi - lo).max(f64::MIN_POSITIVE);
    for &(x, y) in points.iter().filter(|(_, y)| y.is_finite()) {
        // Multiplied first: whole steps over whole columns then meet no rounding.
        let column = ((x - lo) * columns as f64 / width).floor().clamp(0.0, (extents.len() - 1) as f64) as usize;
        let (min, max) = &mut extents[column];
        (*min, *max) = (min.min(y), max.max(y));
    }
    let found = extents.into_iter().enumerate().filter(|(_, (min, max))| min <= max);
    found.map(|(column, (min, max))| Extent { column, min, max }).collect()
}

/// The number of points a smoothed line has at most: about as many as a chart has pixels.
const SMOOTH_POINTS: usize = 1000;

/// The window of [`smooth`] for so many points: about a fiftieth of them, odd; `None` where smoothing would show nothing.
pub fn smoothing_window(points: usize) -> Option<usize> {
    let window = points / 50 / 2 * 2 + 1;
    (window > 1).then_some(window)
}

/// What stands for a window of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// For losses: every step counts the same.
    Mean,
    /// For what has outliers that say nothing about the rest, as step times do.
    Median,
    /// The largest value.
    Max,
}

impl Average {
    /// As the legend says it.
    fn name(self) -> &'static str {
        match self {
            Average::Mean => "mean",
            Average::Median => "median",
            Average::Max => "max",
        }
    }
}

/// The mean, median or maximum of the finite values in a window centred on the point, at up to 1000 evenly chosen
/// points, the last included. At the ends the window is cut, not shifted. Where less than half of a window's values are
/// finite there is nothing to show: NaN.
pub fn smooth(points: &[(f64, f64)], window: usize, average: Average) -> Vec<(f64, f64)> {
    let half = window / 2;
    let stride = points.len().div_ceil(SMOOTH_POINTS).max(1);
    let mut chosen: Vec<usize> = (0..points.len()).step_by(stride).collect();
    if let Some(last) = points.len().checked_sub(1)
        && chosen.last() != Some(&last)
    {
        chosen.push(last);
    }
    // Each window is summed afresh: a running sum would carry the rounding of one huge loss through all that follow.
    let value = |at: usize| {
        let part = &points[at.saturating_sub(half)..(at + half + 1).min(points.len())];
        let finite = part.iter().map(|p| p.1).filter(|y| y.is_finite());
        let count = finite.clone().count();
        match average {
            _ if 2 * count < part.len() => f64::NAN,
            Average::Mean => finite.sum::<f64>() / count as f64,
            Average::Median => median(finite).unwrap_or(f64::NAN),
            Average::Max => finite.fold(f64::NEG_INFINITY, f64::max),
        }
    };
    chosen.into_iter().map(|at| (points[at].0, value(at))).collect()
}

/// The finite values' median, the upper of the two middle ones; `None` if there is none.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// The raw values and, where there are enough of them, their smoothed line: how every noisy quantity of one run is shown.
pub fn raw_and_smoothed(label: &str, ink: Ink, average: Average, points: Vec<(f64, f64)>) -> Vec<Series> {
    match smoothing_window(points.len()) {
        None => vec![Series { label: label.into(), ink, kind: Kind::Dots, points }],
        Some(window) => {
            let line = smoothed(label, ink, average, window, &points);
            vec![Series { label: format!("{label}, every step"), ink, kind: Kind::Raw, points }, line]
        }
    }
}

/// The smoothed line of a series.
pub fn smoothed(label: &str, ink: Ink, average: Average, window: usize, points: &[(f64, f64)]) -> Series {
    let label = format!("{label}, {} of {window} steps", average.name());
    Series { label, ink, kind: Kind::Line, points: smooth(points, window, average) }
}

/// A noisy quantity of one of several runs: its smoothed line, before what every step was, as glass. Only the line is in
/// the legend.
pub fn glass_and_smoothed(label: &str, ink: Ink, average: Average, points: Vec<(f64, f64)>) -> Vec<Series> {
    match smoothing_window(points.len()) {
        None => vec![Series { label: label.into(), ink, kind: Kind::Dots, points }],
        Some(window) => {
            let line = smoothed(label, ink, average, window, &points);
            vec![Series { label: String::new(), ink, kind: Kind::Glass, points }, line]
        }
    }
}
