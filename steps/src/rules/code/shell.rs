//! The commands of a shell's script, as far as they can be told without running it. Pure.
//!
//! Never guesses: of a script with anything else in it (here-documents, functions, arrays, `case`) nothing is said.

use std::iter::Peekable;
use std::str::Chars;

/// What stands in a word where a substitution gives text.
pub(super) const UNKNOWN: &str = "$()";

/// Words before a command that are none themselves.
/// <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_04>
const RESERVED: [&str; 13] =
    ["if", "then", "else", "elif", "fi", "while", "until", "do", "done", "!", "{", "}", "time"];

/// A simple command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    /// Its words, without quotes, redirections, assignments and reserved words before it.
    pub words: Vec<String>,
    /// The command whose output it reads, by its place.
    pub reads: Option<usize>,
}

/// Every command of `script`, those in substitutions and subshells too; `None` where that can't be told.
pub(super) fn commands(script: &str) -> Option<Vec<Command>> {
    let mut reader = Reader { chars: script.chars().peekable(), done: Vec::new() };
    reader.list(None)?;
    for command in &mut reader.done {
        let is_before = |word: &String| RESERVED.contains(&word.as_str()) || is_assignment(word);
        let before = command.words.iter().take_while(|word| is_before(word)).count();
        command.words.drain(..before);
    }
    Some(reader.done)
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// A command in the making.
#[derive(Default)]
struct Draft {
    words: Vec<String>,
    word: Option<String>,
    /// Whether the next word is where a redirection goes.
    is_target: bool,
    reads: Option<usize>,
}

impl Draft {
    fn push(&mut self, text: &str) {
        self.word.get_or_insert_default().push_str(text);
    }

    fn push_char(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take()
            && !std::mem::take(&mut self.is_target)
        {
            self.words.push(word);
        }
    }
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    done: Vec<Command>,
}

impl Reader<'_> {
    /// Commands up to `end`, or to the end of all.
    fn list(&mut self, end: Option<char>) -> Option<()> {
        let mut draft = Draft::default();
        while let Some(c) = self.chars.next() {
            if Some(c) == end {
                self.finish(&mut draft);
                return Some(());
            }
            match c {
                ' ' | '\t' | '\r' => draft.end_word(),
                '\n' | ';' => drop(self.finish(&mut draft)),
                '&' if self.chars.peek() == Some(&'>') => draft.end_word(),
                '&' => {
                    self.chars.next_if_eq(&'&');
                    self.finish(&mut draft);
                }
                '|' if self.chars.next_if_eq(&'|').is_some() => drop(self.finish(&mut draft)),
                '|' => {
                    self.chars.next_if_eq(&'&');
                    draft.reads = self.finish(&mut draft);
                }
                '#' if draft.word.is_none() => while self.chars.next_if(|c| *c != '\n').is_some() {},
                '\'' => {
                    let text = self.until('\'')?;
                    draft.push(&text);
                }
                '"' => self.quoted(&mut draft)?,
                '\\' => match self.chars.next()? {
                    '\n' => {}
                    c => draft.push_char(c),
                },
                '$' => self.dollar(&mut draft, false)?,
                '`' => self.backticks(&mut draft)?,
                '<' | '>' => self.redirection(c, &mut draft)?,
                '(' => {
                    // After any other word it is a function or an array.
                    if draft.word.is_some() || draft.words.iter().any(|w| !RESERVED.contains(&w.as_str())) {
                        return None;
                    }
                    self.finish(&mut draft);
                    self.list(Some(')'))?;
                }
                ')' => return None,
                c => draft.push_char(c),
            }
        }
        self.finish(&mut draft);
        end.is_none().then_some(())
    }

    /// Ends the command; its place, if it is one.
    fn finish(&mut self, draft: &mut Draft) -> Option<usize> {
        draft.end_word();
        draft.is_target = false;
        if draft.words.is_empty() {
            return None;
        }
        self.done.push(Command { words: std::mem::take(&mut draft.words), reads: draft.reads.take() });
        Some(self.done.len() - 1)
    }

    fn until(&mut self, end: char) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.chars.next()? {
                c if c == end => return Some(text),
                c => text.push(c),
            }
        }
    }

    fn quoted(&mut self, draft: &mut Draft) -> Option<()> {
        draft.push("");
        loop {
            match self.chars.next()? {
                '"' => return Some(()),
                '\\' => match self.chars.next()? {
                    '\n' => {}
                    c => draft.push_char(c),
                },
                '$' => self.dollar(draft, true)?,
                '`' => self.backticks(draft)?,
                c => draft.push_char(c),
            }
        }
    }

    /// A variable, or a substitution.
    fn dollar(&mut self, draft: &mut Draft, is_quoted: bool) -> Option<()> {
        match self.chars.peek() {
            Some('(') => {
                self.chars.next();
                self.list(Some(')'))?;
                draft.push(UNKNOWN);
            }
            Some('{') => {
                let text = self.until('}')?;
                if text.contains(['`', '\'', '"', '\\', '(']) || text[1..].contains('{') {
                    return None;
                }
                draft.push(&format!("${text}}}"));
            }
            Some('\'' | '"') if !is_quoted => return None,
            _ => draft.push("$"),
        }
        Some(())
    }

    /// The older substitution, in which a backslash means more than elsewhere.
    fn backticks(&mut self, draft: &mut Draft) -> Option<()> {
        let text = self.until('`')?;
        if text.contains('\\') {
            return None;
        }
        let mut inner = Reader { chars: text.chars().peekable(), done: Vec::new() };
        inner.list(None)?;
        let first = self.done.len();
        self.done.extend(
            inner
                .done
                .into_iter()
                .map(|command| Command { reads: command.reads.map(|at| first + at), ..command }),
        );
        draft.push(UNKNOWN);
        Some(())
    }

    fn redirection(&mut self, c: char, draft: &mut Draft) -> Option<()> {
        if draft.word.as_ref().is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
            draft.word = None;
        }
        draft.end_word();
        if c == '<' {
            draft.reads = None;
        }
        let is_more = |next: &char| *next == '&' || c == '>' && matches!(next, '>' | '|');
        self.chars.next_if(is_more);
        draft.is_target = true;
        // A here-document, or what a command reads and writes as if it were a file.
        (!matches!(self.chars.peek(), Some('<' | '('))).then_some(())
    }
}
