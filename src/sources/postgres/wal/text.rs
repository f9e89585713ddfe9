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
