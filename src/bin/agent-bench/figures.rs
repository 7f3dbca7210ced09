//! Figures, how they compare with their targets, and the table of them.

/// How the table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Markdown,
}

/// Whether a target is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Met,
    Missed,
    /// There is no target, or nothing was measured.
    None,
}

impl Verdict {
    pub fn of(met: bool) -> Verdict {
        if met { Verdict::Met } else { Verdict::Missed }
    }

    fn word(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::None => "",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Figure {
    name: String,
    measured: String,
    target: String,
    java: String,
    verdict: Verdict,
}

impl Figure {
    pub fn new(name: impl Into<String>, measured: impl Into<String>) -> Figure {
        let dash = || "-".to_owned();
        Figure {
            name: name.into(),
            measured: measured.into(),
            target: dash(),
            java: dash(),
            verdict: Verdict::None,
        }
    }

    pub fn target(mut self, text: impl Into<String>, verdict: Verdict) -> Figure {
        self.target = text.into();
        self.verdict = verdict;
        self
    }

    /// The same figure of the Java agent on the same kind of machine.
    pub fn java(mut self, text: impl Into<String>) -> Figure {
        self.java = text.into();
        self
    }

    fn cells(&self) -> [&str; 5] {
        [&self.name, &self.measured, &self.target, self.verdict.word(), &self.java]
    }
}

/// Measurements of one quantity, ascending.
#[derive(Debug, Clone)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn new(mut values: Vec<f64>) -> Samples {
        values.sort_by(f64::total_cmp);
        Samples(values)
    }

    /// The value at `q` (0 to 1), the nearest rank; 0 without samples.
    pub fn quantile(&self, q: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let rank = (q.clamp(0.0, 1.0) * last as f64).round() as usize;
        self.0.get(rank).copied().unwrap_or_default()
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }

    /// Median, least and greatest, with `digits` behind the point.
    pub fn spread(&self, digits: usize, unit: &str) -> String {
        let (median, least, most) = (self.median(), self.quantile(0.0), self.max());
        format!("{median:.digits$} {unit} ({least:.digits$}-{most:.digits$})")
    }
}

const HEAD: [&str; 5] = ["figure", "measured", "target", "", "Java agent"];

/// The table, and under it the circumstances.
pub fn table(figures: &[Figure], conditions: &str, form: Form) -> String {
    let rows: Vec<[&str; 5]> = std::iter::once(HEAD).chain(figures.iter().map(Figure::cells)).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let cells: Vec<String> = cells.collect();
        match form {
            Form::Text => text.push_str(cells.join("  ").trim_end()),
            Form::Markdown => text.push_str(&format!("| {} |", cells.join(" | "))),
        }
        text.push('\n');
        if n == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            match form {
                Form::Text => text.push_str(&rule.join("  ")),
                Form::Markdown => text.push_str(&format!("|-{}-|", rule.join("-|-"))),
            }
            text.push('\n');
        }
    }
    format!("{text}\n{conditions}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples = Samples::new(vec![3.0, 1.0, 2.0, 10.0, 4.0]);
        assert_eq!((samples.median(), samples.max(), samples.quantile(0.0)), (3.0, 10.0, 1.0));
        assert_eq!(samples.mean(), 4.0);
        assert_eq!(samples.spread(1, "ms"), "3.0 ms (1.0-10.0)");
        assert_eq!(Samples::new(vec![]).median(), 0.0);
    }

    #[test]
    fn both_tables_have_every_cell() {
        let figure = Figure::new("RSS", "9 MB").target("24 MB", Verdict::Met).java("200 MB");
        let markdown = table(std::slice::from_ref(&figure), "here", Form::Markdown);
        assert!(markdown.contains("| RSS    | 9 MB     | 24 MB  | met | 200 MB     |"), "{markdown}");
        let text = table(&[figure], "here", Form::Text);
        assert!(text.contains("RSS     9 MB      24 MB   met  200 MB\n"), "{text}");
    }
}
