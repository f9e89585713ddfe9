//! The bytes of a segment, wherever they are: a large one is not held in memory whole.

use std::{borrow::Cow, cell::RefCell, fs::File, os::unix::fs::FileExt};

/// How much of a file is read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// The bytes of a segment.
pub trait Text {
    /// How many there are.
    fn length(&self) -> usize;

    /// So many of them from an offset, at most one page; `None` where there are fewer.
    fn get(&self, at: usize, length: usize) -> Option<Cow<'_, [u8]>>;
}

impl Text for &[u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn get(&self, at: usize, length: usize) -> Option<Cow<'_, [u8]>> {
        <[u8]>::get(self, at..at.checked_add(length)?).map(Cow::Borrowed)
    }
}

/// The beginning of a file.
pub struct FileText<'f> {
    file: &'f File,
    length: usize,
    /// Where the window begins, and its bytes.
    window: RefCell<(usize, Vec<u8>)>,
}

impl<'f> FileText<'f> {
    /// The first `length` bytes of a file.
    pub fn new(file: &'f File, length: u64) -> Self {
        FileText { file, length: usize::try_from(length).unwrap_or(usize::MAX), window: RefCell::default() }
    }
}

impl Text for FileText<'_> {
    fn length(&self) -> usize {
        self.length
    }

    fn get(&self, at: usize, length: usize) -> Option<Cow<'_, [u8]>> {
        let end = at.checked_add(length).filter(|end| *end <= self.length)?;
        let mut window = self.window.borrow_mut();
        let (begins, bytes) = &mut *window;
        if at < *begins || end > *begins + bytes.len() {
            *begins = at;
            bytes.resize((self.length - at).min(WINDOW_BYTES.max(length)), 0);
            if self.file.read_exact_at(bytes, at as u64).is_err() {
                bytes.clear();
                return None;
            }
        }
        Some(Cow::Owned(bytes[at - *begins..end - *begins].to_vec()))
    }
}

/// One text and what comes after it.
pub struct Joined<'t>(pub &'t dyn Text, pub &'t dyn Text);

impl Text for Joined<'_> {
    fn length(&self) -> usize {
        self.0.length() + self.1.length()
    }

    fn get(&self, at: usize, length: usize) -> Option<Cow<'_, [u8]>> {
        let first = self.0.length();
        let end = at.checked_add(length)?;
        if end <= first {
            self.0.get(at, length)
        } else if at >= first {
            self.1.get(at - first, length)
        } else {
            let mut both = self.0.get(at, first - at)?.into_owned();
            both.extend_from_slice(&self.1.get(0, end - first)?);
            Some(Cow::Owned(both))
        }
    }
}

/// A text in which nothing stands from an offset on but zeros.
pub struct Until<'t>(pub &'t dyn Text, pub usize);

impl Text for Until<'_> {
    fn length(&self) -> usize {
        self.0.length()
    }

    fn get(&self, at: usize, length: usize) -> Option<Cow<'_, [u8]>> {
        let mut bytes = self.0.get(at, length)?;
        if at + length > self.1 {
            bytes.to_mut()[self.1.saturating_sub(at)..].fill(0);
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn every_text_shows_what_is_in_it() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|number| (number / 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let length = bytes.len() - 100;
        let (in_file, whole) = (FileText::new(&file, length as u64), &bytes[..length]);
        let joined = Joined(&in_file, &&bytes[length..]);
        let until = Until(&joined, 2_000_001);
        let mut zeroed = bytes.clone();
        zeroed[2_000_001..].fill(0);
        assert_eq!((in_file.length(), joined.length(), until.length()), (length, bytes.len(), bytes.len()));
        let places = [0, 1, 1_048_570, 1_048_576, 1_999_990, 2_000_001, 2_000_002, 2_999_890, 2_999_899, 2_999_900];
        // To and fro.
        for at in places.into_iter().chain(places.into_iter().rev()) {
            for size in [0, 1, 20, 8192] {
                let end = at + size;
                assert_eq!(in_file.get(at, size).as_deref(), whole.get(at..end), "{at} {size}");
                assert_eq!(joined.get(at, size).as_deref(), bytes.get(at..end), "{at} {size}");
                assert_eq!(until.get(at, size).as_deref(), zeroed.get(at..end), "{at} {size}");
            }
        }
        for text in [&in_file as &dyn Text, &joined, &until] {
            assert_eq!(text.get(usize::MAX, 2), None);
        }
        // A file that is shorter than was said.
        assert_eq!(FileText::new(&file, 4_000_000).get(2_999_990, 20), None);
    }
}
