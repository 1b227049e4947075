//! The pairs as bars, by the logarithm of their rates.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{COLOURS, DrawnPair, FONT, rate, short};

/// Pixels of the drawing, and of its parts.
const WIDTH: i32 = 900;
const NAMES: i32 = 230;
const FIGURES: i32 = 160;
const HEAD: i32 = 70;
const ROW: i32 = 40;
const BAR: i32 = 14;

/// The rate at the left end.
const LEAST: f64 = 100.0;

/// The reference's bars.
const REFERENCE: RGBColor = RGBColor(150, 150, 150);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The drawing of some pairs.
pub fn draw(pairs: &[DrawnPair], subtitle: &str) -> Result<String, Box<dyn Error>> {
    let rates = pairs.iter().flat_map(|pair| [&pair.reference, &pair.ours]);
    let most = rates.filter_map(|runs| rate(runs)).fold(LEAST, f64::max);
    let height = HEAD + ROW * i32::try_from(pairs.len())? + 10;
    let mut svg = String::new();
    {
        let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        head(&area, subtitle)?;
        for (pair, top) in pairs.iter().zip((HEAD..).step_by(ROW as usize)) {
            row(&area, pair, top, most)?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn head(area: &Area<'_>, subtitle: &str) -> Result<(), Box<dyn Error>> {
    write(
        area,
        "Messages a second, logarithmic",
        (10, 16),
        22,
        HPos::Left,
    )?;
    write(area, subtitle, (10, 36), 15, HPos::Left)?;
    for (name, colour, x) in [
        ("reference", REFERENCE, NAMES),
        ("Penstock, and its ratio", COLOURS[0], NAMES + 120),
    ] {
        let corners = [(x, 48), (x + BAR, 48 + BAR)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        write(area, name, (x + BAR + 6, 48 + BAR / 2), 15, HPos::Left)?;
    }
    Ok(())
}

fn row(area: &Area<'_>, pair: &DrawnPair, top: i32, most: f64) -> Result<(), Box<dyn Error>> {
    write(area, &pair.name, (NAMES - 10, top + BAR), 16, HPos::Right)?;
    let (Some(reference), Some(ours)) = (rate(&pair.reference), rate(&pair.ours)) else {
        return write(area, "not run", (NAMES, top + BAR), 15, HPos::Left);
    };
    let ratio = pair
        .ratio
        .map_or_else(String::new, |ratio| format!("   ×{ratio:.2}"));
    for (rate, colour, top, text) in [
        (reference, REFERENCE, top, short(reference)),
        (ours, COLOURS[0], top + BAR + 1, short(ours) + &ratio),
    ] {
        let length = (rate / LEAST).ln().max(0.0) / (most / LEAST).ln().max(f64::MIN_POSITIVE);
        let end = NAMES + (length * f64::from(WIDTH - NAMES - FIGURES)) as i32;
        let corners = [(NAMES, top), (end, top + BAR)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        write(area, &text, (end + 6, top + BAR / 2), 15, HPos::Left)?;
    }
    Ok(())
}

fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    side: HPos,
) -> Result<(), Box<dyn Error>> {
    let style = TextStyle::from((FONT, size).into_font()).pos(Pos::new(side, VPos::Center));
    Ok(area.draw_text(text, &style, at)?)
}
