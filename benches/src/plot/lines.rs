//! Programs along an axis: their rates and their memory, both logarithmic.

use std::error::Error;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{COLOURS, DrawnAxis, FONT, peak_mb, rate, short};
use crate::meter::Measure;

/// Pixels of the drawing, and of its parts.
const SIZE: (u32, u32) = (900, 760);
const HEAD: u32 = 50;
const CHARTS: u32 = 680;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A figure of some runs.
type Figure = fn(&[Measure]) -> Option<f64>;

/// The drawing of an axis.
pub fn draw(axis: &DrawnAxis, subtitle: &str) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (head, rest) = area.split_vertically(HEAD);
        let title = format!("How rate and memory change with the {}", axis.name);
        head.draw_text(&title, &(FONT, 22).into_text_style(&head), (10, 8))?;
        head.draw_text(subtitle, &(FONT, 15).into_text_style(&head), (10, 30))?;
        let (charts, names) = rest.split_horizontally(CHARTS);
        let (upper, lower) = charts.split_vertically((SIZE.1 - HEAD) / 2);
        chart(&upper, axis, "messages/s", rate)?;
        chart(&lower, axis, "peak RSS, MB", peak_mb)?;
        legend(&names, axis)?;
        area.present()?;
    }
    Ok(svg)
}

fn chart(
    area: &Area<'_>,
    axis: &DrawnAxis,
    title: &str,
    figure: Figure,
) -> Result<(), Box<dyn Error>> {
    let series: Vec<Vec<(f64, f64)>> = axis
        .series
        .iter()
        .map(|line| {
            let points = line.points.iter();
            points
                .filter_map(|point| Some((point.at, figure(&point.runs)?)))
                .collect()
        })
        .collect();
    let points = || series.iter().flatten();
    let (Some(across), Some(up)) = (
        around(points().map(|(at, _)| *at), 1.0),
        around(points().map(|(_, value)| *value), 1.3),
    ) else {
        return Ok(());
    };
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(across.log_scale(), up.log_scale())?;
    chart
        .configure_mesh()
        .x_desc(&axis.unit)
        .y_desc(title)
        .x_label_formatter(&|at| short(*at))
        .y_label_formatter(&|value| short(*value))
        .label_style((FONT, 15))
        .axis_desc_style((FONT, 16))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.15))
        .draw()?;
    for (points, colour) in series.into_iter().zip(COLOURS.iter().cycle()) {
        let marks: Vec<_> = points
            .iter()
            .map(|point| Circle::new(*point, 3, colour.filled()))
            .collect();
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        chart.draw_series(marks)?;
    }
    Ok(())
}

/// From the least to the greatest, with a factor beyond both; nothing of nothing.
fn around(values: impl Iterator<Item = f64> + Clone, beyond: f64) -> Option<Range<f64>> {
    let least = values.clone().reduce(f64::min)?;
    let most = values.reduce(f64::max)?;
    // One place alone still needs some width.
    let most = if most > least { most } else { least * 2.0 };
    Some(least / beyond..most * beyond)
}

fn legend(area: &Area<'_>, axis: &DrawnAxis) -> Result<(), Box<dyn Error>> {
    let names = axis.series.iter().zip(COLOURS.iter().cycle());
    for ((line, colour), y) in names.zip((20..).step_by(22)) {
        let stroke = [(0, y), (20, y)];
        area.draw(&PathElement::new(stroke, colour.stroke_width(3)))?;
        let style = (FONT, 16).into_text_style(area);
        area.draw_text(&line.name, &style, (28, y - 7))?;
    }
    Ok(())
}
