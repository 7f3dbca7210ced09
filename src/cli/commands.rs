//! `agent commands`: the registry of wire commands as a table.

use std::fmt::Write;

use serde::Serialize;

use super::out::{self, JsonLayout};
use crate::service::exit;

/// One command of the management server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandRow {
    /// Simple class name, `StartCommand`.
    pub class: String,
    /// Simple class name of the answer, `StartAnswer`.
    pub answer: String,
    /// Part of the agent that handles it: `vm`, `storage`, `network`, ...
    pub domain: String,
    /// First version of this agent that handles it.
    pub since: Option<String>,
    pub state: CommandState,
    /// What an operator should know; `None` when there is nothing.
    pub note: Option<String>,
}

/// Whether a command is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandState {
    Done,
    Unsupported,
}

/// Prints the rows and returns the exit code.
pub fn show(rows: impl IntoIterator<Item = CommandRow>, json: bool) -> u8 {
    let rows: Vec<CommandRow> = rows.into_iter().collect();
    if json {
        out::show_json(&rows, JsonLayout::Indented);
    } else {
        out::show(&table(&rows));
    }
    exit::OK
}

fn table(rows: &[CommandRow]) -> String {
    let width = |cell: fn(&CommandRow) -> &str, title: &str| {
        rows.iter().map(|row| cell(row).chars().count()).chain([title.len()]).max().unwrap_or(0)
    };
    let class = width(|row| &row.class, "COMMAND");
    let answer = width(|row| &row.answer, "ANSWER");
    let domain = width(|row| &row.domain, "DOMAIN");
    let mut text = String::new();
    let mut line = |cells: [&str; 6]| {
        let [a, b, c, d, e, f] = cells;
        let row = format!("{a:<class$}  {b:<answer$}  {c:<domain$}  {d:<11}  {e:<7}  {f}");
        let _ = writeln!(text, "{}", row.trim_end());
    };
    line(["COMMAND", "ANSWER", "DOMAIN", "STATE", "SINCE", "NOTE"]);
    for row in rows {
        let state = match row.state {
            CommandState::Done => "done",
            CommandState::Unsupported => "unsupported",
        };
        let since = row.since.as_deref().unwrap_or("-");
        line([&row.class, &row.answer, &row.domain, state, since, row.note.as_deref().unwrap_or("")]);
    }
    let done = rows.iter().filter(|row| row.state == CommandState::Done).count();
    let _ = writeln!(text, "\n{done} of {} commands handled", rows.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(class: &str, state: CommandState) -> CommandRow {
        CommandRow {
            class: class.into(),
            answer: class.replace("Command", "Answer"),
            domain: "vm".into(),
            since: (state == CommandState::Done).then(|| "0.1.0".into()),
            state,
            note: None,
        }
    }

    #[test]
    fn the_table_lines_up_and_counts() {
        let rows =
            [row("StartCommand", CommandState::Done), row("ScaleVmCommand", CommandState::Unsupported)];
        let expected = "\
COMMAND         ANSWER         DOMAIN  STATE        SINCE    NOTE
StartCommand    StartAnswer    vm      done         0.1.0
ScaleVmCommand  ScaleVmAnswer  vm      unsupported  -

1 of 2 commands handled
";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn json_says_unknown_as_null() {
        let json = serde_json::to_value(row("X", CommandState::Unsupported)).unwrap();
        assert_eq!(json["state"], "unsupported");
        assert!(json["since"].is_null() && json["note"].is_null());
    }
}
