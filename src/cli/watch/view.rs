//! The dashboard on a terminal. Charts are drawn in Braille dots, two a column: every value as a pale band from the smallest
//! to the largest of a column, so that no extreme is lost, and the mean on top. Sizes decide what fits; nothing is scrolled.

use super::board::{Board, short};
use crate::report::axis::{Axis, Scale};
use crate::report::figure::envelope;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis as ChartAxis, Block, Chart, Dataset, Gauge, GraphType, Paragraph, Wrap};

/// Draws the board over the whole frame.
pub fn draw(frame: &mut Frame, board: &Board) {
    let area = frame.area();
    let [head, bar, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(area);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let title = Line::from(vec![Span::styled(printable(&board.name), bold), Span::raw(format!("  {}", board.state()))]);
    frame.render_widget(title, head);
    let left = board.numbers().into_iter().find(|(name, _)| *name == "left");
    let label = board.progress() + &left.map_or(String::new(), |(_, left)| format!(", {left} left"));
    frame.render_widget(Gauge::default().ratio(board.share()).label(label).gauge_style(Color::Blue), bar);
    frame.render_widget(Line::styled("q quits (the run continues)", Color::DarkGray), foot);

    // Below this there is room for charts or for words, not for both.
    let wide = body.width >= 90;
    let (charts, words) = if wide {
        let [charts, words] = Layout::horizontal([Constraint::Percentage(64), Constraint::Percentage(36)]).areas(body);
        (charts, words)
    } else {
        let [charts, words] = Layout::vertical([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(body);
        (charts, words)
    };
    draw_charts(frame, board, charts);
    draw_words(frame, board, words);
}

fn draw_charts(frame: &mut Frame, board: &Board, area: Rect) {
    let loss = Curve { title: "loss (nats per token)", values: &board.loss, scale: Scale::Auto, level: None };
    if area.height < 16 {
        return loss.draw(frame, board, area);
    }
    let [above, below] = Layout::vertical([Constraint::Percentage(58), Constraint::Percentage(42)]).areas(area);
    let [norm, speed] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(below);
    loss.draw(frame, board, above);
    let level = board.clip_norm;
    Curve { title: "gradient norm", values: &board.grad_norm, scale: Scale::Auto, level }.draw(frame, board, norm);
    let values = &board.throughput;
    Curve { title: "tokens per second", values, scale: Scale::FromZero, level: None }.draw(frame, board, speed);
}

fn draw_words(frame: &mut Frame, board: &Board, area: Rect) {
    let numbers = board.numbers();
    let room = (numbers.len() as u16 + 2).min(area.height);
    let [top, rest] = Layout::vertical([Constraint::Length(room), Constraint::Min(0)]).areas(area);
    let dim = Style::new().fg(Color::DarkGray);
    let lines: Vec<Line> = numbers
        .into_iter()
        .map(|(name, value)| Line::from(vec![Span::styled(format!("{name:<11}"), dim), Span::raw(printable(&value))]))
        .collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("now")), top);
    if rest.height < 3 {
        return;
    }
    let events = if rest.height < 8 { rest.height } else { rest.height / 2 };
    let [events, sample] = Layout::vertical([Constraint::Length(events), Constraint::Min(0)]).areas(rest);
    let fit = events.height.saturating_sub(2) as usize;
    let newest = &board.events[board.events.len().saturating_sub(fit)..];
    let lines: Vec<Line> = newest.iter().map(|event| Line::raw(printable(event))).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("events")), events);
    if let Some((step, prompt, text)) = board.sample.as_ref().filter(|_| sample.height >= 3) {
        let mut lines: Vec<Line> = Vec::new();
        for (i, line) in format!("{prompt}{text}").lines().enumerate() {
            let line = printable(line);
            let cut =
                line.floor_char_boundary(if i == 0 && line.starts_with(prompt.as_str()) { prompt.len() } else { 0 });
            let (given, made) = line.split_at(cut);
            let given = Span::styled(given.to_owned(), Style::new().add_modifier(Modifier::BOLD));
            lines.push(Line::from(vec![given, Span::raw(made.to_owned())]));
        }
        let block = Block::bordered().title(format!("sample of step {step}"));
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), sample);
    }
}

/// A measurement over the steps.
struct Curve<'a> {
    title: &'a str,
    values: &'a [(f64, f64)],
    scale: Scale,
    /// A horizontal line.
    level: Option<f64>,
}

impl Curve<'_> {
    fn draw(&self, frame: &mut Frame, board: &Board, area: Rect) {
        let is_loss = self.title.starts_with("loss");
        let val: &[(f64, f64)] = if is_loss { &board.val_loss } else { &[] };
        let smooth: &[(f64, f64)] = if is_loss { &board.smooth_loss } else { &[] };
        let all = self.values.iter().chain(val).map(|p| p.1).chain(self.level);
        let y = Axis::values(all, self.scale, 4);
        let last = self.values.iter().chain(val).map(|p| p.0).fold(1.0, f64::max);
        let last = board.max_steps.filter(|_| board.left.is_some()).map_or(last, |max| last.max(max as f64));
        // Two dots of Braille stand side by side in a cell.
        let columns = 2 * area.width.saturating_sub(10).max(1) as usize;
        let place = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points.iter().filter(|p| p.1.is_finite()).map(|p| (p.0, y.unit(p.1))).collect()
        };
        let width = last / columns as f64;
        let band: Vec<(f64, f64)> = envelope(self.values, 0.0, last, columns)
            .into_iter()
            .flat_map(|e| [e.min, e.max].map(|value| ((e.column as f64 + 0.5) * width, y.unit(value))))
            .collect();
        let lost: Vec<(f64, f64)> = self.values.iter().filter(|p| !p.1.is_finite()).map(|p| (p.0, 1.0)).collect();
        let (smooth, val) = (place(smooth), place(val));
        let level: Vec<(f64, f64)> = self.level.map_or_else(Vec::new, |v| vec![(0.0, y.unit(v)), (last, y.unit(v))]);
        let mut sets = Vec::new();
        let mut add = |points, kind, marker, color: Color| {
            sets.push(Dataset::default().data(points).graph_type(kind).marker(marker).style(color));
        };
        let pale = if smooth.is_empty() { Color::Cyan } else { Color::DarkGray };
        add(&level, GraphType::Line, Marker::Braille, Color::Yellow);
        add(&band, GraphType::Line, Marker::Braille, pale);
        add(&smooth, GraphType::Line, Marker::Braille, Color::Cyan);
        add(&val, GraphType::Scatter, Marker::Dot, Color::LightYellow);
        add(&lost, GraphType::Scatter, Marker::Dot, Color::Red);
        let dim = Style::new().fg(Color::DarkGray);
        let labels = [0.0, 0.5, 1.0].map(|unit| value_at(&y, unit));
        let title = match (lost.len(), is_loss && !val.is_empty()) {
            (0, true) => format!("{}, • validation", self.title),
            (0, false) => self.title.to_owned(),
            (lost, _) => format!("{}, • {lost} not finite", self.title),
        };
        let chart = Chart::new(sets)
            .block(Block::bordered().title(title))
            .x_axis(ChartAxis::default().bounds([0.0, last]).labels(["0".to_owned(), steps(last)]).style(dim))
            .y_axis(ChartAxis::default().bounds([0.0, 1.0]).labels(labels).style(dim))
            .legend_position(None);
        frame.render_widget(chart, area);
    }
}

/// The value at a place of an axis: the inverse of [`Axis::unit`].
fn value_at(axis: &Axis, unit: f64) -> String {
    let value = match axis.log {
        true => axis.lo * (axis.hi / axis.lo).powf(unit),
        false => axis.lo + unit * (axis.hi - axis.lo),
    };
    // Four digits at most, so that the charts below one another begin at about the same column.
    match value.abs() {
        v if (0.01..100.0).contains(&v) => format!("{value:.2}"),
        _ => short(value),
    }
}

fn steps(last: f64) -> String {
    if last < 1e4 { format!("{last:.0}") } else { short(last) }
}

/// A text without what would move the cursor or colour the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
