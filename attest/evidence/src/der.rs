//! The part of DER that X.509 certificates of AMD's hierarchy use: definite, minimal lengths and low tag numbers.

/// Tags of ITU-T X.680, with class and constructed bit.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const NULL: u8 = 0x05;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0C;
    pub(crate) const PRINTABLE_STRING: u8 = 0x13;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;

    /// `[n]`, constructed.
    pub(crate) const fn context(n: u8) -> u8 {
        0xA0 | n
    }
}

/// The bytes are not DER of the expected shape. Where they are, the caller says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// One element.
#[derive(Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
    /// Tag, length and value.
    pub(crate) whole: &'a [u8],
}

impl<'a> Element<'a> {
    pub(crate) fn tag_and_value(self) -> (u8, &'a [u8]) {
        (self.tag, self.value)
    }
}

/// Reads elements one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self) -> Result<Element<'a>, Malformed> {
        let (&tag, rest) = self.0.split_first().ok_or(Malformed)?;
        // Tag numbers from 31 need more bytes; no certificate has one.
        if tag & 0x1F == 0x1F {
            return Err(Malformed);
        }
        let (len, rest) = length(rest)?;
        let value = rest.get(..len).ok_or(Malformed)?;
        let whole = &self.0[..self.0.len() - rest.len() + len];
        self.0 = &rest[len..];
        Ok(Element { tag, value, whole })
    }

    /// The next element, which must have this tag.
    pub(crate) fn element(&mut self, tag: u8) -> Result<Element<'a>, Malformed> {
        let element = self.any()?;
        if element.tag == tag { Ok(element) } else { Err(Malformed) }
    }

    /// The value of the next element, which must have this tag.
    pub(crate) fn value(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        self.element(tag).map(|element| element.value)
    }

    /// The inside of the next element, which must have this tag.
    pub(crate) fn inside(&mut self, tag: u8) -> Result<Reader<'a>, Malformed> {
        self.value(tag).map(Reader)
    }

    /// The next element if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        if self.0.first() == Some(&tag) { self.value(tag).map(Some) } else { Ok(None) }
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// A length and what follows it.
fn length(bytes: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    let (&first, rest) = bytes.split_first().ok_or(Malformed)?;
    let count = match first {
        0..=0x7F => return Ok((usize::from(first), rest)),
        // 0x80 is the indefinite form; more than three bytes would be more than 16 MiB.
        0x81..=0x83 => usize::from(first & 0x7F),
        _ => return Err(Malformed),
    };
    let digits = rest.get(..count).ok_or(Malformed)?;
    let len = digits.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    let minimal = digits[0] != 0 && len > 0x7F;
    if minimal { Ok((len, &rest[count..])) } else { Err(Malformed) }
}

/// An unsigned INTEGER's magnitude, without leading zeros (zero is empty).
pub(crate) fn unsigned(value: &[u8]) -> Result<&[u8], Malformed> {
    match value {
        [] => Err(Malformed),
        [0] => Ok(&[]),
        [0, next, ..] if *next >= 0x80 => Ok(&value[1..]),
        [first, ..] if *first >= 0x80 || *first == 0 => Err(Malformed),
        _ => Ok(value),
    }
}

/// A whole element that is one unsigned INTEGER of at most a byte.
pub(crate) fn small_integer(element: &[u8]) -> Result<u8, Malformed> {
    let mut reader = Reader::new(element);
    let value = unsigned(reader.value(tag::INTEGER)?)?;
    reader.end()?;
    match value {
        [] => Ok(0),
        [byte] => Ok(*byte),
        _ => Err(Malformed),
    }
}

/// A BIT STRING of whole bytes.
pub(crate) fn whole_bits(value: &[u8]) -> Result<&[u8], Malformed> {
    match value {
        [0, bytes @ ..] => Ok(bytes),
        _ => Err(Malformed),
    }
}

/// A BOOLEAN.
pub(crate) fn boolean(value: &[u8]) -> Result<bool, Malformed> {
    match value {
        [0x00] => Ok(false),
        [0xFF] => Ok(true),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_definite_and_minimal() {
        assert_eq!(length(&[0x7F, 1]).unwrap(), (0x7F, &[1][..]));
        assert_eq!(length(&[0x81, 0x80]).unwrap().0, 0x80);
        assert_eq!(length(&[0x82, 0x01, 0x00]).unwrap().0, 0x100);
        for bad in [&[][..], &[0x80], &[0x81], &[0x81, 0x7F], &[0x82, 0, 0xFF], &[0x84, 1, 0, 0, 0], &[0xFF]] {
            assert_eq!(length(bad).err(), Some(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn integers_are_minimal_and_not_negative() {
        assert_eq!(small_integer(&[2, 1, 0]), Ok(0));
        assert_eq!(small_integer(&[2, 1, 0x73]), Ok(0x73));
        assert_eq!(small_integer(&[2, 2, 0, 0xD1]), Ok(0xD1));
        for bad in [&[2, 0][..], &[2, 1, 0x80], &[2, 2, 0, 1], &[2, 2, 1, 0], &[2, 1, 0, 0], &[4, 1, 0]] {
            assert_eq!(small_integer(bad), Err(Malformed), "{bad:?}");
        }
    }
}
