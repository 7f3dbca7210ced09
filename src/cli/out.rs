//! Writing to the terminal. A reader that went away (`| head`) is no error.

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::status::render::{Color, Style};

/// Whether someone still reads what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Present,
    Gone,
}

/// Writes to stdout and flushes.
pub fn show(text: &str) -> Reader {
    write_to(&mut io::stdout().lock(), text)
}

/// Writes one line to stderr, prefixed with the program's name.
pub fn complain(text: &str) {
    write_to(&mut io::stderr().lock(), &format!("agent: {text}\n"));
}

/// Writes a JSON document: indented for people, on one line where documents follow each other.
pub fn show_json(value: &impl serde::Serialize, layout: JsonLayout) -> Reader {
    let text = match layout {
        JsonLayout::Indented => serde_json::to_string_pretty(value),
        JsonLayout::OneLine => serde_json::to_string(value),
    };
    match text {
        Ok(text) => show(&(text + "\n")),
        Err(error) => {
            complain(&format!("cannot write JSON: {error}"));
            Reader::Gone
        }
    }
}

/// How JSON is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonLayout {
    Indented,
    OneLine,
}

/// Colours only on a terminal, and not when `NO_COLOR` is set and not empty (no-color.org).
pub fn stdout_style() -> Style {
    style(io::stdout().is_terminal(), std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()))
}

/// Whether pages can be drawn over each other.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn style(terminal: bool, no_color: bool) -> Style {
    Style { color: if terminal && !no_color { Color::Ansi } else { Color::Never } }
}

fn write_to(to: &mut dyn Write, text: &str) -> Reader {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Ok(()) => Reader::Present,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Reader::Gone,
        // A full disk behind a redirection: there is nowhere left to say so.
        Err(_) => Reader::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_noticed_without_noise() {
        assert_eq!(write_to(&mut Closed, "x"), Reader::Gone);
        let mut sink = Vec::new();
        assert_eq!(write_to(&mut sink, "x\n"), Reader::Present);
        assert_eq!(sink, b"x\n");
    }

    #[test]
    fn colours_need_a_terminal_and_permission() {
        assert_eq!(style(true, false).color, Color::Ansi);
        assert_eq!(style(true, true).color, Color::Never);
        assert_eq!(style(false, false).color, Color::Never);
    }
}
