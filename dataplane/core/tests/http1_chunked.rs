//! The chunked decoder against a table and against a naive reference on whole inputs.

use proptest::prelude::*;
use sluice_core::http1::{
    BodyDecoder, BodyError, BodyFraming, BodyStep, ChunkedDecoder, LAST_CHUNK, Limits, write_chunk_end,
    write_chunk_header,
};

use BodyError as E;

/// Data, trailers, bytes consumed (`None`: not ended) of a body fed in pieces that end at `cuts`.
type Decoded = (Vec<u8>, Vec<u8>, Option<usize>);

fn decode(input: &[u8], cuts: &[usize], limits: &Limits) -> Result<Decoded, BodyError> {
    let mut decoder = ChunkedDecoder::new();
    let mut data = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain(&[input.len()]) {
        while from < cut {
            let piece = &input[from..cut];
            let step = decoder.step(piece, limits)?;
            from += step.consumed(piece.len());
            match step {
                BodyStep::Data { start, end } => data.extend_from_slice(&piece[start..end]),
                BodyStep::More => assert_eq!(from, cut),
                BodyStep::End { .. } => return Ok((data, decoder.trailers().to_vec(), Some(from))),
            }
        }
    }
    Ok((data, decoder.trailers().to_vec(), None))
}

fn whole(input: &[u8]) -> Result<Decoded, BodyError> {
    decode(input, &[], &Limits::DEFAULT)
}

#[test]
fn good_bodies() {
    let table: &[(&[u8], &[u8], &[u8])] = &[
        (b"0\r\n\r\n", b"", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
        (b"5\r\nhello\r\n6\r\n world\r\n000\r\n\r\n", b"hello world", b""),
        (b"00000000000000a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b""),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b""),
        (b"1;x\r\na\r\n0;y=z\r\n\r\n", b"a", b""),
        (b"1;x=\"q;\\\"\t\r\"\r\na\r\n0\r\n\r\n", b"", b"refused: CR in quotes"),
        (b"1;x=\"q;\\\"\t\"\r\na\r\n0\r\n\r\n", b"a", b""),
        (b"1; x = y ;z\r\na\r\n0\r\n\r\n", b"a", b""),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b""),
        (b"0\r\nX-Sum: 1\r\nY:\t2 \r\n\r\n", b"", b"X-Sum: 1\r\nY: 2\r\n"),
        // Fields that steer something are dropped.
        (
            b"0\r\nContent-Length: 5\r\nHost: b\r\nX-Forwarded-Port: 1\r\nX-A: 1\r\nAuthorization: x\r\n\r\n",
            b"",
            b"X-A: 1\r\n",
        ),
    ];
    for (input, data, trailers) in table {
        if trailers.starts_with(b"refused") {
            assert_eq!(whole(input), Err(E::InvalidChunkExtension));
            continue;
        }
        let mut input = input.to_vec();
        let len = input.len();
        input.extend_from_slice(b"GET / HTTP/1.1\r\n");
        assert_eq!(
            whole(&input),
            Ok((data.to_vec(), trailers.to_vec(), Some(len))),
            "{}",
            input.escape_ascii()
        );
    }
}

const REFUSED: &[(&[u8], BodyError)] = &[
    (b"\r\n", E::InvalidChunkSize),
    (b"g\r\n", E::InvalidChunkSize),
    (b" 5\r\n", E::InvalidChunkSize),
    (b"5 \r\n", E::InvalidChunkSize),
    (b"5\t;x\r\n", E::InvalidChunkSize),
    (b"+5\r\n", E::InvalidChunkSize),
    (b"-5\r\n", E::InvalidChunkSize),
    (b"0x5\r\n", E::InvalidChunkSize),
    (b"5_0\r\n", E::InvalidChunkSize),
    (b";x\r\n", E::InvalidChunkSize),
    (b"\n", E::InvalidChunkSize),
    (b"\x005\r\n", E::InvalidChunkSize),
    (b"1000000000000000\r\n", E::ChunkSizeOverflow),
    (b"0000000000000005\r\n", E::ChunkSizeOverflow),
    (b"ffffffffffffffff0\r\n", E::ChunkSizeOverflow),
    (b"5;\r\n", E::InvalidChunkExtension),
    (b"5;;\r\n", E::InvalidChunkExtension),
    (b"5;=x\r\n", E::InvalidChunkExtension),
    (b"5;x=\r\n", E::InvalidChunkExtension),
    (b"5;x y\r\n", E::InvalidChunkExtension),
    (b"5;x \r\n", E::InvalidChunkExtension),
    (b"5;x=\"y\r\n", E::InvalidChunkExtension),
    (b"5;x=\"y\"z\r\n", E::InvalidChunkExtension),
    (b"5;x\x00\r\n", E::InvalidChunkExtension),
    (b"5\n", E::BareLf),
    (b"5;x\n", E::BareLf),
    (b"5;x=\"\n", E::BareLf),
    (b"5\rh", E::BareCr),
    (b"0\r\r\n", E::BareCr),
    (b"1\r\naX\r\n", E::ChunkDataEnd),
    (b"1\r\na\n", E::ChunkDataEnd),
    (b"1\r\na\rX", E::ChunkDataEnd),
    (b"1\r\nab\r\n", E::ChunkDataEnd),
    (b"0\r\nX\r\n\r\n", E::InvalidTrailer),
    (b"0\r\nX : y\r\n\r\n", E::InvalidTrailer),
    (b"0\r\n X: y\r\n\r\n", E::InvalidTrailer),
    (b"0\r\n: y\r\n\r\n", E::InvalidTrailer),
    (b"0\r\nX: y\x00\r\n\r\n", E::InvalidTrailer),
    (b"0\r\nX: y\r\n z\r\n\r\n", E::InvalidTrailer),
    (b"0\r\nX: y\n\r\n", E::BareLf),
    (b"0\r\n\n", E::BareLf),
    (b"0\r\nX: y\rz\r\n", E::BareCr),
    (b"fffffffffffffff\r\n", E::BodyTooLarge),
];

#[test]
fn bad_bodies() {
    let limits = Limits { content_length: 1 << 32, ..Limits::DEFAULT };
    for (input, error) in REFUSED {
        assert_eq!(decode(input, &[], &limits), Err(*error), "{}", input.escape_ascii());
    }
    let by_size = [E::ChunkLineTooLong, E::ChunkExtensionsTooLarge, E::TrailersTooLarge, E::TooManyTrailers];
    for error in BodyError::ALL {
        let elsewhere = by_size.contains(error) || *error == E::UnexpectedEnd;
        assert!(elsewhere || REFUSED.iter().any(|(_, e)| e == error), "{} is not in the table", error.name());
    }
}

#[test]
fn limits() {
    let limits = Limits {
        chunk_line_bytes: 8,
        chunk_ext_bytes: 8,
        trailer_bytes: 12,
        trailer_fields: 1,
        content_length: 3,
        ..Limits::DEFAULT
    };
    let end = |input: &[u8]| decode(input, &[], &limits).map(|(_, _, end)| end.is_some());
    assert_eq!(end(b"1;xxxx\r\na\r\n0\r\n\r\n"), Ok(true));
    assert_eq!(end(b"1;xxxxx\r\na\r\n0\r\n\r\n"), Err(E::ChunkLineTooLong));
    assert_eq!(end(b"1;xxx\r\na\r\n1;xxx\r\n"), Err(E::ChunkExtensionsTooLarge));
    assert_eq!(end(b"0\r\nA: 456789\r\n\r\n"), Err(E::TrailersTooLarge));
    assert_eq!(end(b"0\r\nA: 45678\r\n\r\n"), Ok(true));
    assert_eq!(end(b"0\r\nA:1\r\nB:2\r\n"), Err(E::TooManyTrailers));
    assert_eq!(end(b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"), Ok(true));
    assert_eq!(end(b"2\r\nab\r\n2\r\n"), Err(E::BodyTooLarge));
}

#[test]
fn other_framings() {
    let limits = Limits::DEFAULT;
    let mut length = BodyDecoder::new(BodyFraming::Length(3));
    assert_eq!(length.step(b"ab", &limits), Ok(BodyStep::Data { start: 0, end: 2 }));
    assert_eq!(length.step(b"", &limits), Ok(BodyStep::More));
    assert_eq!(length.on_close(), Err(E::UnexpectedEnd));
    assert_eq!(length.step(b"cGET", &limits), Ok(BodyStep::Data { start: 0, end: 1 }));
    assert_eq!(length.step(b"GET", &limits), Ok(BodyStep::End { consumed: 0 }));
    assert_eq!(length.on_close(), Ok(()));
    let mut none = BodyDecoder::new(BodyFraming::None);
    assert_eq!(none.step(b"GET", &limits), Ok(BodyStep::End { consumed: 0 }));
    let mut close = BodyDecoder::new(BodyFraming::UntilClose);
    assert_eq!(close.step(b"ab", &limits), Ok(BodyStep::Data { start: 0, end: 2 }));
    assert_eq!(close.on_close(), Ok(()));
    let mut chunked = BodyDecoder::new(BodyFraming::Chunked);
    assert_eq!(chunked.step(b"1\r", &limits), Ok(BodyStep::More));
    assert_eq!(chunked.on_close(), Err(E::UnexpectedEnd));
    assert_eq!(chunked.step(b"\na\r\n0\r\n\r\n", &limits), Ok(BodyStep::Data { start: 1, end: 2 }));
    assert_eq!(chunked.step(b"\r\n0\r\n\r\nX", &limits), Ok(BodyStep::End { consumed: 7 }));
    assert_eq!(chunked.on_close(), Ok(()));
}

/// What a body without extensions and trailers says, by splitting lines; `None` if it is not one whole body.
fn reference(mut input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let all = input.len();
    let mut data = Vec::new();
    loop {
        let eol = input.windows(2).position(|w| w == b"\r\n")?;
        let digits = std::str::from_utf8(&input[..eol]).ok()?;
        if digits.is_empty() || digits.len() > 15 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        input = &input[eol + 2..];
        let body = input.get(..size)?;
        data.extend_from_slice(body);
        input = input[size..].strip_prefix(b"\r\n")?;
        if size == 0 {
            return Some((data, all - input.len()));
        }
    }
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let chunk = (prop::collection::vec(any::<u8>(), 1..40), 0usize..3).prop_map(|(data, zeros)| {
        let mut out = "0".repeat(zeros).into_bytes();
        write_chunk_header(data.len(), &mut out);
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\r\n");
        out
    });
    // Most bodies are right, some have one byte changed.
    let damage =
        prop_oneof![3 => Just(None), 1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(Some)];
    (prop::collection::vec(chunk, 0..6), damage).prop_map(|(chunks, damage)| {
        let mut out = chunks.concat();
        out.extend_from_slice(LAST_CHUNK);
        if let Some((at, byte)) = damage {
            let at = at.index(out.len());
            out[at] = byte;
        }
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn agrees_with_the_reference_however_split(
        input in body(),
        seeds in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut cuts: Vec<usize> = seeds.iter().map(|i| i.index(input.len() + 1)).collect();
        cuts.sort_unstable();
        let ours = decode(&input, &cuts, &Limits::DEFAULT);
        prop_assert_eq!(&ours, &whole(&input), "split");
        if let Some((data, consumed)) = reference(&input) {
            prop_assert_eq!(ours, Ok((data, Vec::new(), Some(consumed))));
        } else if let Ok((_, trailers, Some(_))) = ours {
            // More than the reference knows: an extension or a trailer made by the damage.
            prop_assert!(!trailers.is_empty() || input.contains(&b';') || input.contains(&b':'));
        }
    }

    #[test]
    fn what_is_written_is_read(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..5)) {
        let mut out = Vec::new();
        for chunk in &chunks {
            write_chunk_header(chunk.len(), &mut out);
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
        write_chunk_end(b"X-A: b\r\n", &mut out);
        let expected = (chunks.concat(), b"X-A: b\r\n".to_vec(), Some(out.len()));
        prop_assert_eq!(whole(&out), Ok(expected));
    }
}
