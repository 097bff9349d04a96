//! What was measured, as tables for people and as lines for programs, beside what is wanted.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::stack::{Doing, StackError};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
            Self::Below(limit) => value < limit,
        }
    }

    fn in_words(self) -> String {
        match self {
            Self::AtLeast(limit) => format!("at least {limit}"),
            Self::AtMost(limit) => format!("at most {limit}"),
            Self::Below(limit) => format!("below {limit}"),
        }
    }
}

/// One figure, measured once or in several turns.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    name: String,
    decimals: usize,
    values: Vec<f64>,
    /// What is wanted: said, and not judged.
    goal: Option<Limit>,
    /// What the product promises: beyond it the benchmark fails.
    promise: Option<Limit>,
}

impl Figure {
    pub(super) fn new(
        name: impl Into<String>,
        decimals: usize,
        values: impl IntoIterator<Item = f64>,
    ) -> Self {
        Self {
            name: name.into(),
            decimals,
            values: values.into_iter().collect(),
            goal: None,
            promise: None,
        }
    }

    pub(super) fn goal(self, goal: Limit) -> Self {
        let goal = Some(goal);
        Self { goal, ..self }
    }

    pub(super) fn promise(self, promise: Limit) -> Self {
        let promise = Some(promise);
        Self { promise, ..self }
    }

    fn line(&self) -> String {
        let (decimals, mut text) = (self.decimals, String::new());
        let mut values = self.values.clone();
        let Some(median) = median(&mut values) else {
            return text;
        };
        let (least, greatest) = (values[0], values[values.len() - 1]);
        let _ = write!(text, "{}={median:.decimals$}", self.name);
        if values.len() > 1 {
            let _ = write!(text, " ({least:.decimals$} to {greatest:.decimals$})");
        }
        text.push('\n');
        text
    }

    /// What falls short of what the product promises. No value at all does, too.
    fn shortfall(&self) -> Option<String> {
        let promise = self.promise?;
        let value = median(&mut self.values.clone()).unwrap_or(f64::NAN);
        let Self { name, decimals, .. } = self;
        let words = promise.in_words();
        let decimals = decimals + 1;
        (value.is_nan() || !promise.holds(value))
            .then(|| format!("{name} is {value:.decimals$}, not {words}"))
    }
}

/// What one scene found.
#[derive(Clone, Debug, Default)]
pub(super) struct Section {
    pub(super) title: &'static str,
    /// The first row names the columns.
    pub(super) table: Vec<Vec<String>>,
    pub(super) figures: Vec<Figure>,
}

#[derive(Debug)]
pub(super) struct Report {
    pub(super) span: Duration,
    pub(super) turns: u16,
    pub(super) postgres: String,
    pub(super) sections: Vec<Section>,
}

impl Report {
    pub(super) fn text(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let mut text = format!(
            "# Benchmark\n\n{cores} cores, Postgres {}, {} turns of {} s a side, everything on this machine.\n\n",
            self.postgres,
            self.turns,
            self.span.as_secs(),
        );
        let goals: Vec<&Figure> = self.figures().filter(|one| one.goal.is_some()).collect();
        if !goals.is_empty() {
            row(&mut text, &["figure", "median", "spread", "goal", ""]);
            row(&mut text, &["---", "---:", "---", "---", "---"]);
        }
        for figure in goals {
            text.push_str(&goal_row(figure));
        }
        for section in &self.sections {
            let _ = write!(text, "\n## {}\n\n", section.title);
            for (number, cells) in section.table.iter().enumerate() {
                row(&mut text, cells);
                if number == 0 {
                    row(&mut text, &vec!["---:"; cells.len()]);
                }
            }
            if !section.table.is_empty() {
                text.push('\n');
            }
            text.push_str("```text\n");
            for figure in &section.figures {
                text.push_str(&figure.line());
            }
            text.push_str("```\n");
        }
        text
    }

    pub(super) fn shortfalls(&self) -> Vec<String> {
        self.figures().filter_map(Figure::shortfall).collect()
    }

    fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.sections.iter().flat_map(|section| &section.figures)
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), StackError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).doing(|| format!("making {}", folder.display()))?;
        }
        fs::write(path, self.text()).doing(|| format!("writing {}", path.display()))
    }
}

fn goal_row(figure: &Figure) -> String {
    let (mut text, decimals) = (String::new(), figure.decimals);
    let mut values = figure.values.clone();
    let goal = figure.goal.map(Limit::in_words).unwrap_or_default();
    let Some(median) = median(&mut values) else {
        row(
            &mut text,
            &[figure.name.as_str(), "", "", &goal, "not measured"],
        );
        return text;
    };
    let is_met = figure.goal.is_none_or(|goal| goal.holds(median));
    let cells = [
        figure.name.clone(),
        format!("{median:.decimals$}"),
        format!(
            "{:.decimals$} to {:.decimals$}",
            values[0],
            values[values.len() - 1]
        ),
        goal,
        if is_met { "met" } else { "missed" }.to_owned(),
    ];
    row(&mut text, &cells);
    text
}

fn row(text: &mut String, cells: &[impl AsRef<str>]) {
    for cell in cells {
        let _ = write!(text, "| {} ", cell.as_ref());
    }
    text.push_str("|\n");
}

/// The middle one, once they are in order.
pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

pub(super) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

#[expect(clippy::cast_precision_loss, reason = "no process has 2^52 bytes")]
pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_median_and_the_spread() {
        let line = |decimals, values: &[f64]| Figure::new("x", decimals, values.to_vec()).line();
        assert_eq!(line(2, &[0.9, 0.7, 0.8]), "x=0.80 (0.70 to 0.90)\n");
        assert_eq!(line(0, &[31.4]), "x=31\n");
        assert_eq!(line(0, &[]), "");
    }

    #[test]
    fn what_falls_short_is_named() {
        let short = |limit, values: &[f64]| {
            let figure = Figure::new("x", 2, values.to_vec());
            figure.promise(limit).shortfall()
        };
        assert_eq!(short(Limit::AtLeast(0.6), &[0.5, 0.6, 0.9]), None);
        let slow = short(Limit::AtLeast(0.6), &[0.5, 0.599, 0.9]);
        assert_eq!(slow.as_deref(), Some("x is 0.599, not at least 0.6"));
        assert_eq!(short(Limit::Below(40.0), &[39.9]), None);
        let large = short(Limit::Below(40.0), &[40.0]);
        assert_eq!(large.as_deref(), Some("x is 40.000, not below 40"));
        assert!(short(Limit::AtMost(1.0), &[]).is_some());
    }

    #[test]
    fn a_goal_is_met_or_missed_and_fails_nothing() {
        let figure = |value| Figure::new("x", 1, [value]).goal(Limit::AtMost(2.0));
        assert_eq!(
            goal_row(&figure(2.0)),
            "| x | 2.0 | 2.0 to 2.0 | at most 2 | met |\n"
        );
        assert_eq!(
            goal_row(&figure(2.1)),
            "| x | 2.1 | 2.1 to 2.1 | at most 2 | missed |\n"
        );
        assert_eq!(figure(9.0).shortfall(), None);
    }
}
