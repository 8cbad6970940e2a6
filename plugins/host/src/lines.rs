//! Lines of a stream, within bounds. Reading may be given up at any time and goes on where it was.

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A stream with what has been read of it and not been taken.
pub(crate) struct Lines {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    buffer: Vec<u8>,
    /// Where what has not been taken begins.
    start: usize,
    /// Up to where there is no line break.
    searched: usize,
    total: u64,
    ended: bool,
}

impl Lines {
    pub(crate) fn new(stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let stream = Box::new(stream);
        Self { stream, buffer: Vec::new(), start: 0, searched: 0, total: 0, ended: false }
    }

    /// Reads on. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) async fn fill(&mut self) -> std::io::Result<()> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.reserve(CHUNK_BYTES);
        let read = (&mut self.stream).take(CHUNK_BYTES as u64).read_buf(&mut self.buffer).await?;
        self.total += read as u64;
        self.ended |= read == 0;
        Ok(())
    }

    /// The next whole line that has been read, without its end.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        let at = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(at) = at else {
            self.searched = self.buffer.len();
            return None;
        };
        let (start, end) = (self.start, self.searched + at);
        (self.start, self.searched) = (end + 1, end + 1);
        let line = &self.buffer[start..end];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// What has been read of a line that is not whole.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Takes it.
    pub(crate) fn drop_rest(&mut self) {
        self.start = self.buffer.len();
        self.searched = self.start;
    }

    /// Bytes read in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Whether the stream is at its end.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }
}

/// Text that is safe on a terminal and in a log: one line, cut at `limit` bytes.
pub(crate) fn clean(text: &str, limit: usize) -> String {
    let cut = text.floor_char_boundary(limit);
    let mut clean: String = text[..cut].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if cut < text.len() {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_however_the_bytes_come() {
        let (mut near, far) = tokio::io::duplex(3);
        let writer = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            near.write_all(b"one\r\n\ntwo and more\nhalf").await.unwrap();
        });
        let mut lines = Lines::new(far);
        let mut found = Vec::new();
        while !lines.ended() {
            lines.fill().await.unwrap();
            while let Some(line) = lines.next() {
                found.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        writer.await.unwrap();
        assert_eq!(found, ["one", "", "two and more"]);
        assert_eq!(lines.rest(), b"half");
        assert_eq!(lines.total(), 23);
    }

    #[test]
    fn what_is_shown_can_not_steer_a_terminal() {
        assert_eq!(clean("a\u{1b}[31mred\nb", 100), "a [31mred b");
        assert_eq!(clean("äää", 3), "ä…");
    }
}
