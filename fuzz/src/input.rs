//! Takes the bytes of the fuzzer apart: numbers, pieces, choices. What is not there reads as zero, so that every
//! input means something.

/// The bytes that are left.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Starts at the first byte.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Tells whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Takes one byte as a choice between two; nothing left is the first.
    pub fn choice(&mut self) -> bool {
        self.byte().is_multiple_of(2)
    }

    /// Takes two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Takes eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Takes a number below the limit, which is at most 256 and not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// Takes a piece that says how long it is.
    pub fn piece(&mut self) -> &'a [u8] {
        let bytes = usize::from(self.u16()).min(self.0.len());
        let (piece, rest) = self.0.split_at(bytes);
        self.0 = rest;
        piece
    }

    /// Takes everything.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Takes everything as text, as far as it is text.
    pub fn rest_text(&mut self) -> &'a str {
        valid_text(self.rest())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = N.min(self.0.len());
        let (head, rest) = self.0.split_at(bytes);
        array[..bytes].copy_from_slice(head);
        self.0 = rest;
        array
    }
}

/// Returns the longest start of the bytes that is UTF-8.
pub fn valid_text(bytes: &[u8]) -> &str {
    bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// Appends a piece as [`Input::piece`] takes it; for seeds.
pub fn push_piece(data: &mut Vec<u8>, piece: &[u8]) {
    let bytes = piece.len().min(usize::from(u16::MAX));
    data.extend_from_slice(&(bytes as u16).to_le_bytes());
    data.extend_from_slice(&piece[..bytes]);
}
