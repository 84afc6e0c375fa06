//! Fixed-length byte values that parse strictly and never pad or truncate.

/// A byte string had the wrong length or was not lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BytesError {
    /// The text is not an even number of `0-9a-f` digits.
    #[error("{what} is not lower-case hexadecimal: `{got}`")]
    NotHex {
        /// The kind of value that was being parsed.
        what: &'static str,
        /// The offending text, shortened to 80 characters.
        got: String,
    },
    /// The value decodes, but to another number of bytes.
    #[error("{what} is {got} bytes long, expected {expected}")]
    Length {
        /// The kind of value that was being parsed.
        what: &'static str,
        /// How many bytes were given.
        got: usize,
        /// How many bytes the type holds.
        expected: usize,
    },
}

/// Decodes exactly `N` bytes of lower-case hexadecimal.
///
/// # Errors
/// [`BytesError::NotHex`] for any other alphabet (upper case included), [`BytesError::Length`] for any other length.
pub fn parse_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], BytesError> {
    let bytes =
        data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| BytesError::NotHex { what, got: text.chars().take(80).collect() })?;
    <[u8; N]>::try_from(bytes.as_slice()).map_err(|_| BytesError::Length { what, got: bytes.len(), expected: N })
}

/// Defines a public newtype over `[u8; N]` whose text and JSON form is lower-case hexadecimal.
///
/// The type has `LEN`, `new`, `as_bytes`, `Display`, `Debug`, `FromStr`, `TryFrom<&[u8]>` and serde. Not for secrets.
#[macro_export]
macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Wraps exactly the right number of bytes.
            #[must_use]
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes themselves.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl ::core::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl ::core::str::FromStr for $name {
            type Err = $crate::BytesError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::parse_hex(stringify!($name), text).map(Self)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = $crate::BytesError;

            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                <[u8; $len]>::try_from(bytes).map(Self).map_err(|_| $crate::BytesError::Length {
                    what: stringify!($name),
                    got: bytes.len(),
                    expected: $len,
                })
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <::std::borrow::Cow<'de, str> as ::serde::Deserialize>::deserialize(d)?;
                text.parse().map_err(::serde::de::Error::custom)
            }
        }
    };
}
