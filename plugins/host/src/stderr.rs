//! What a plugin writes to stderr: lines for the log, and its last words for the error.
//!
//! Invariants: no secret that the plugin was given is in either, nor a part of one, wherever a line is cut;
//! of a line that is too long its beginning is taken, once, and the rest of it is dropped as it comes.

use tokio::io::AsyncRead;

use crate::limits::{MAX_LINE_BYTES, STDERR_KEPT_BYTES};
use crate::lines::Lines;
use crate::vault::Vault;

/// The stream, and what is kept of it.
pub(crate) struct Stderr {
    lines: Lines,
    /// Whether what comes up to the next line break belongs to a line that was too long.
    drops: bool,
    last_words: String,
}

impl Stderr {
    pub(crate) fn new(stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self { lines: Lines::new(stream), drops: false, last_words: String::new() }
    }

    /// Reads on. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) async fn fill(&mut self) -> std::io::Result<()> {
        self.lines.fill().await
    }

    /// Bytes read in all.
    pub(crate) fn total(&self) -> u64 {
        self.lines.total()
    }

    /// Whether the stream is at its end.
    pub(crate) fn ended(&self) -> bool {
        self.lines.ended()
    }

    /// Whether it is in the middle of a line that is too long.
    pub(crate) fn drops(&self) -> bool {
        self.drops
    }

    /// The end of what was said.
    pub(crate) fn last_words(&self) -> &str {
        self.last_words.trim()
    }

    /// Lines that have come, as they may be shown. Empty ones are left out.
    pub(crate) fn take(&mut self, vault: &Vault) -> Vec<String> {
        // A secret that begins in what is shown must be there whole, or nobody knows it.
        let longest = MAX_LINE_BYTES + vault.longest_bytes();
        let mut said = Vec::new();
        while let Some(line) = self.lines.next() {
            if !std::mem::take(&mut self.drops) && !line.is_empty() {
                said.push(vault.show(line, MAX_LINE_BYTES));
            }
        }
        let rest = self.lines.rest();
        if rest.len() > longest || self.lines.ended() {
            if !self.drops && !rest.is_empty() {
                said.push(vault.show(rest, MAX_LINE_BYTES));
            }
            self.drops = true;
            self.lines.drop_rest();
        }
        said.iter().for_each(|line| self.remember(line));
        said
    }

    fn remember(&mut self, line: &str) {
        self.last_words.push_str(line);
        self.last_words.push('\n');
        let excess = self.last_words.len().saturating_sub(STDERR_KEPT_BYTES);
        let excess = self.last_words.ceil_char_boundary(excess);
        self.last_words.drain(..excess);
    }
}
