//! Bounded decompression of request bodies.

use std::fmt;
use std::io::{self, Read};

use crate::wire;

/// Windows of zstd frames up to 8 MiB, as RFC 9659 demands of content encodings: a frame's header cannot make us allocate more.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Why a body was not decompressed.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// Not an encoding that we know.
    Encoding,
    /// Corrupt or cut short.
    Data(wire::Error),
    /// It holds more than the limit.
    TooLarge,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Encoding => out.write_str("expected an encoding of gzip, deflate or zstd"),
            Error::Data(error) => error.fmt(out),
            Error::TooLarge => out.write_str("the decompressed body is above the limit"),
        }
    }
}

impl std::error::Error for Error {}

/// Decompresses `data` into at most `limit` bytes; memory stays within the limit and a fixed amount.
pub fn decompress(encoding: &str, data: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    match encoding {
        "gzip" => {
            let mut decoder = flate2::bufread::MultiGzDecoder::new(data);
            read(
                &mut decoder,
                |decoder| decoder.get_ref().len(),
                "gzip data",
                data,
                limit,
            )
        }
        "deflate" => {
            let mut decoder = flate2::bufread::ZlibDecoder::new(data);
            let out = read(
                &mut decoder,
                |decoder| decoder.get_ref().len(),
                "zlib data",
                data,
                limit,
            )?;
            match decoder.get_ref().len() {
                0 => Ok(out),
                rest => Err(Error::Data(wire::Error {
                    offset: data.len() - rest,
                    what: "the end of the zlib data",
                })),
            }
        }
        "zstd" => {
            let corrupt = |_| {
                Error::Data(wire::Error {
                    offset: 0,
                    what: "zstd data",
                })
            };
            let mut decoder = zstd::stream::read::Decoder::with_buffer(data).map_err(corrupt)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(corrupt)?;
            if data.is_empty() {
                return Err(Error::Data(wire::Error {
                    offset: 0,
                    what: "zstd data",
                }));
            }
            read(
                &mut decoder,
                |decoder| decoder.get_ref().len(),
                "zstd data (windows up to 8 MiB)",
                data,
                limit,
            )
        }
        _ => Err(Error::Encoding),
    }
}

fn read<D: Read>(
    decoder: &mut D,
    left: impl Fn(&D) -> usize,
    what: &'static str,
    data: &[u8],
    limit: usize,
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(limit.min(data.len().saturating_mul(4)));
    // one byte past the limit tells "too large" from "just fits"
    match decoder
        .by_ref()
        .take(limit as u64 + 1)
        .read_to_end(&mut out)
    {
        Ok(_) if out.len() > limit => Err(Error::TooLarge),
        Ok(_) => Ok(out),
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Err(Error::TooLarge),
        Err(_) => Err(Error::Data(wire::Error {
            offset: data.len() - left(decoder),
            what,
        })),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(data: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 3).unwrap()
    }

    #[test]
    fn round_trips_up_to_the_limit() {
        let data: Vec<u8> = (0..100_000u32)
            .map(|number| (number.wrapping_mul(number) >> 7) as u8)
            .collect();
        for (encoding, packed) in [
            ("gzip", gzip(&data)),
            ("deflate", deflate(&data)),
            ("zstd", zstd(&data)),
        ] {
            assert_eq!(
                decompress(encoding, &packed, data.len()).as_ref(),
                Ok(&data),
                "{encoding}"
            );
            assert_eq!(
                decompress(encoding, &packed, data.len() - 1),
                Err(Error::TooLarge),
                "{encoding}"
            );
            for cut in [0, 1, 5, packed.len() / 2, packed.len() - 1] {
                assert!(
                    matches!(
                        decompress(encoding, &packed[..cut], data.len()),
                        Err(Error::Data(_))
                    ),
                    "{encoding} cut at {cut}"
                );
            }
        }
        assert_eq!(decompress("br", b"", 1), Err(Error::Encoding));
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        assert_eq!(
            decompress("gzip", &[gzip(b"one "), gzip(b"two")].concat(), 7).as_deref(),
            Ok(&b"one two"[..])
        );
        assert_eq!(
            decompress("zstd", &[zstd(b"one "), zstd(b"two")].concat(), 7).as_deref(),
            Ok(&b"one two"[..])
        );
        assert!(decompress("deflate", &[deflate(b"one "), deflate(b"two")].concat(), 7).is_err());
        assert!(decompress("gzip", &[gzip(b"one"), b"rest".to_vec()].concat(), 7).is_err());
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let zeros = vec![0u8; 16 << 20];
        for (encoding, bomb) in [
            ("gzip", gzip(&zeros)),
            ("deflate", deflate(&zeros)),
            ("zstd", zstd(&zeros)),
        ] {
            assert!(bomb.len() < zeros.len() / 900);
            assert_eq!(
                decompress(encoding, &bomb, 1 << 20),
                Err(Error::TooLarge),
                "{encoding}"
            );
        }
    }
}
