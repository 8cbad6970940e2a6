//! Progress on stderr: one line a running node with bytes, items, rate and time left. Without a
//! terminal, plain lines: one for each change of state, and one now and then for long work.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use migrate_plugin_api::{NodeId, Progress};

use crate::output::harmless;
use crate::say::say;

/// Redraws a second on a terminal: fluent, and cheap over ssh.
const TICK: Duration = Duration::from_millis(250);
/// Between two plain lines of one node: enough to see that it lives, few enough to read.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// No time left is told before: the rate of the first seconds says nothing of the rest.
const MIN_ESTIMATE: Duration = Duration::from_secs(10);
/// Nor one beyond: whoever transfers for longer is waiting for something.
const MAX_ESTIMATE: Duration = Duration::from_secs(7 * 24 * 3600);

struct Line {
    bar: ProgressBar,
    started: Instant,
    last_plain: Instant,
}

/// All lines. Owned by the one task that renders events.
pub struct Board {
    lines: MultiProgress,
    terminal: bool,
    running: HashMap<NodeId, Line>,
    /// Width of the longest node name.
    width: usize,
}

impl Board {
    /// A board for nodes whose names have at most `width` characters.
    pub fn new(width: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { lines: MultiProgress::new(), terminal, running: HashMap::new(), width }
    }

    /// Prints a whole line above the running ones.
    pub fn say(&self, text: &str) {
        if self.terminal {
            self.lines.suspend(|| say!("{text}"));
        } else {
            say!("{text}");
        }
    }

    /// A line about `node`.
    pub fn say_of(&self, node: &NodeId, text: &str) {
        self.say(&format!("{node:>width$}  {text}", node = node.as_str(), width = self.width));
    }

    /// `node` began.
    pub fn start(&mut self, node: &NodeId, step: &str) {
        if !self.terminal {
            self.say_of(node, &format!("started ({step})"));
        }
        let now = Instant::now();
        let bar = if self.terminal {
            let bar = self.lines.add(ProgressBar::new_spinner());
            bar.set_style(style());
            bar.set_prefix(format!("{:>width$}", node.as_str(), width = self.width));
            bar.set_message(harmless(step));
            bar.enable_steady_tick(TICK);
            bar
        } else {
            ProgressBar::hidden()
        };
        self.running.insert(node.clone(), Line { bar, started: now, last_plain: now });
    }

    /// `node` is this far.
    pub fn progress(&mut self, node: &NodeId, progress: &Progress) {
        let Some(line) = self.running.get_mut(node) else { return };
        let text = describe(progress, line.started.elapsed());
        if self.terminal {
            line.bar.set_message(harmless(&text));
        } else if line.last_plain.elapsed() >= PLAIN_INTERVAL {
            line.last_plain = Instant::now();
            self.say_of(node, &text);
        }
    }

    /// `node` ended, with `text` as its last line.
    pub fn finish(&mut self, node: &NodeId, text: &str) {
        if let Some(line) = self.running.remove(node) {
            line.bar.finish_and_clear();
        }
        self.say_of(node, text);
    }

    /// Takes all lines away.
    pub fn clear(&mut self) {
        for (_, line) in self.running.drain() {
            line.bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}  {spinner} {elapsed:>4} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// One line of text: message, items, bytes, rate and time left.
pub fn describe(progress: &Progress, elapsed: Duration) -> String {
    let mut parts = Vec::new();
    if let Some(items) = progress.items {
        parts.push(match items.total {
            Some(total) => format!("{}/{total} items", items.done),
            None => format!("{} items", items.done),
        });
    }
    if let Some(bytes) = progress.bytes {
        // A whole that was only estimated can turn out too small; then none is known.
        let total = bytes.total.filter(|total| *total >= bytes.done);
        parts.push(match total {
            Some(total) => format!("{}/{}", HumanBytes(bytes.done), HumanBytes(total)),
            None => HumanBytes(bytes.done).to_string(),
        });
        let seconds = elapsed.as_secs_f64();
        if bytes.done > 0 && seconds >= 1.0 {
            let rate = bytes.done as f64 / seconds;
            parts.push(format!("{}/s", HumanBytes(rate as u64)));
            let left = total.map_or(0.0, |total| (total - bytes.done) as f64 / rate);
            if left > 0.0 && elapsed >= MIN_ESTIMATE && left <= MAX_ESTIMATE.as_secs_f64() {
                parts.push(format!("{} left", HumanDuration(Duration::from_secs_f64(left))));
            }
        }
    }
    if let Some(message) = &progress.message {
        parts.push(message.clone());
    }
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_follow_from_what_is_done() {
        let progress = Progress::message("blob kopia/p1").bytes(512 << 20, 1024 << 20).items(3, 8);
        let text = describe(&progress, Duration::from_secs(16));
        assert_eq!(text, "3/8 items · 512.00 MiB/1.00 GiB · 32.00 MiB/s · 16 seconds left · blob kopia/p1");
    }

    #[test]
    fn no_more_is_done_than_the_whole_and_no_absurd_time_is_left() {
        let over = Progress::default().bytes(2048, 1024);
        assert_eq!(describe(&over, Duration::from_secs(16)), "2.00 KiB · 128 B/s");
        let early = Progress::default().bytes(1 << 20, 1024 << 20);
        assert_eq!(describe(&early, Duration::from_secs(2)), "1.00 MiB/1.00 GiB · 512.00 KiB/s");
        let slow = Progress::default().bytes(1024, 1 << 40);
        assert_eq!(describe(&slow, Duration::from_secs(16)), "1.00 KiB/1.00 TiB · 64 B/s");
    }

    #[test]
    fn nothing_is_made_up_where_the_whole_is_unknown() {
        let progress = Progress::default().bytes(2048, None);
        assert_eq!(describe(&progress, Duration::from_millis(10)), "2.00 KiB");
    }
}
