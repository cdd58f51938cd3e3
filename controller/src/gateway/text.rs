//! Short texts without allocation and without the machinery of `fmt`: what is written for every request.

/// A text of at most `N` bytes; what does not fit is cut.
#[derive(Debug)]
pub(super) struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    pub(super) fn put(&mut self, part: &[u8]) {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        let part = part.get(..part.len().min(room.len())).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(part) {
            *to = *from;
        }
        self.length += part.len();
    }

    /// Decimal digits, at least `digits` of them.
    pub(super) fn put_number(&mut self, number: u64, digits: usize) {
        let (decimal, at) = decimal(number, digits);
        self.put(decimal.get(at..).unwrap_or_default());
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// A number in decimal, at least `digits` long: the bytes from the index on.
pub(super) fn decimal(mut number: u64, digits: usize) -> ([u8; 20], usize) {
    let mut text = [b'0'; 20];
    let mut at = text.len();
    for place in text.iter_mut().rev() {
        if number == 0 && 20 - at >= digits {
            break;
        }
        *place = b'0' + (number % 10) as u8;
        number /= 10;
        at -= 1;
    }
    (text, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_as_many_digits_as_asked_for() {
        let mut text = Text::<40>::new();
        for (number, digits) in [(0, 1), (7, 3), (1204, 1), (u64::MAX, 1)] {
            text.put(b" ");
            text.put_number(number, digits);
        }
        assert_eq!(text.as_bytes(), b" 0 007 1204 18446744073709551615");
        text.put(&[b'x'; 40]);
        assert_eq!(text.as_bytes().len(), 40);
    }
}
