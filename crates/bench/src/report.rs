//! The figures of all runs, as a table and as JSON.

use comfy_table::Table;
use comfy_table::presets;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Result;

/// What has been measured.
pub struct Report {
    builds: usize,
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Figure {
    work: String,
    figure: &'static str,
    unit: &'static str,
    /// The values of each build, this one's first.
    builds: Vec<Vec<f64>>,
    /// The same of the least work, from the same runs.
    floor: Vec<f64>,
}

impl Report {
    pub fn new(builds: usize) -> Self {
        Self {
            builds,
            figures: Vec::new(),
        }
    }

    /// Adds a value of a build.
    pub fn add(
        &mut self,
        build: usize,
        work: &str,
        figure: &'static str,
        unit: &'static str,
        value: f64,
    ) {
        if let Some(values) = self.figure(work, figure, unit).builds.get_mut(build) {
            values.push(value);
        }
    }

    /// Adds a value of the floor.
    pub fn floor(&mut self, work: &str, figure: &'static str, unit: &'static str, value: f64) {
        self.figure(work, figure, unit).floor.push(value);
    }

    fn figure(&mut self, work: &str, figure: &'static str, unit: &'static str) -> &mut Figure {
        let found = self
            .figures
            .iter()
            .position(|f| f.work == work && f.figure == figure);
        let place = found.unwrap_or_else(|| {
            self.figures.push(Figure {
                work: work.to_owned(),
                figure,
                unit,
                builds: vec![Vec::new(); self.builds],
                floor: Vec::new(),
            });
            self.figures.len() - 1
        });
        &mut self.figures[place]
    }

    pub fn is_empty(&self) -> bool {
        self.figures.is_empty()
    }

    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let mut header = vec!["work", "figure", "median (least, most)", "floor", "ratio"];
        if self.builds > 1 {
            header.extend(["other build", "this / other"]);
        }
        table.set_header(header);
        for figure in &self.figures {
            let own = summary(&figure.builds[0]);
            let floor = summary(&figure.floor);
            let mut row = vec![
                figure.work.clone(),
                figure.figure.to_owned(),
                own.map(|own| own.text(figure.unit)).unwrap_or_default(),
                floor
                    .map(|floor| floor.short(figure.unit))
                    .unwrap_or_default(),
                ratio(own, floor),
            ];
            for other in figure.builds.iter().skip(1) {
                let other = summary(other);
                row.push(
                    other
                        .map(|other| other.text(figure.unit))
                        .unwrap_or_default(),
                );
                row.push(ratio(own, other));
            }
            table.add_row(row);
        }
        table
    }

    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.figures)?)
    }
}

/// The median, the least and the most of some values.
#[derive(Clone, Copy)]
struct Summary {
    median: f64,
    least: f64,
    most: f64,
}

fn summary(values: &[f64]) -> Option<Summary> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    Some(Summary {
        least: *values.first()?,
        median: values[values.len() / 2],
        most: *values.last()?,
    })
}

impl Summary {
    fn text(&self, unit: &str) -> String {
        let [median, least, most] = [self.median, self.least, self.most].map(digits);
        format!("{median} {unit} ({least}, {most})")
    }

    fn short(&self, unit: &str) -> String {
        format!("{} {unit}", digits(self.median))
    }
}

fn ratio(value: Option<Summary>, of: Option<Summary>) -> String {
    match (value, of) {
        (Some(value), Some(of)) if of.median > 0.0 => format!("{:.2}", value.median / of.median),
        _ => String::new(),
    }
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Times in nanoseconds, of which quantiles are asked.
pub struct Times(Histogram<u64>);

impl Times {
    pub fn new() -> Result<Self> {
        Ok(Self(Histogram::new(3)?))
    }

    pub fn add(&mut self, time: std::time::Duration) -> Result<()> {
        Ok(self.0.record(u64::try_from(time.as_nanos())?)?)
    }

    /// In milliseconds.
    pub fn at(&self, part: f64) -> f64 {
        self.0.value_at_quantile(part) as f64 / 1e6
    }
}
