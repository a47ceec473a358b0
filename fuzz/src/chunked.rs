//! Chunked bodies.

use sluice_core::http1::{BodyError, BodyStep, ChunkedDecoder, Limits, write_chunk_end, write_chunk_header};

/// Data, trailers and bytes consumed (`None`: not ended).
pub(crate) type Decoded = (Vec<u8>, Vec<u8>, Option<usize>);

/// Decodes pieces that end at `cuts`, then the rest.
pub(crate) fn decode(input: &[u8], cuts: &[usize], limits: &Limits) -> Result<Decoded, BodyError> {
    let mut decoder = ChunkedDecoder::new();
    let mut data = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain(&[input.len()]) {
        while from < cut {
            let piece = &input[from..cut];
            let step = decoder.step(piece, limits)?;
            let consumed = step.consumed(piece.len());
            assert!(consumed > 0 && consumed <= piece.len(), "a step makes progress");
            from += consumed;
            match step {
                BodyStep::Data { start, end } => data.extend_from_slice(&piece[start..end]),
                BodyStep::More => {}
                BodyStep::End { .. } => {
                    assert!(decoder.is_ended());
                    return Ok((data, decoder.trailers().to_vec(), Some(from)));
                }
            }
        }
    }
    Ok((data, decoder.trailers().to_vec(), None))
}

/// Decoding in pieces equals decoding the whole; limits hold; data and trailers written anew decode to
/// themselves.
pub fn http1_chunked(input: &[u8]) {
    let small = Limits {
        chunk_line_bytes: 16,
        chunk_ext_bytes: 24,
        trailer_bytes: 40,
        trailer_fields: 2,
        content_length: 64,
        ..Limits::DEFAULT
    };
    let every_byte: Vec<usize> = (0..input.len()).collect();
    for limits in [Limits::DEFAULT, small] {
        let whole = decode(input, &[], &limits);
        assert_eq!(decode(input, &crate::cuts(input), &limits), whole, "split");
        assert_eq!(decode(input, &every_byte, &limits), whole, "split");
        let Ok((data, trailers, end)) = whole else { continue };
        assert!(data.len() as u64 <= limits.content_length);
        assert!(trailers.len() <= limits.trailer_bytes + limits.trailer_fields);
        if end.is_some() {
            let mut out = Vec::new();
            for chunk in data.chunks(7) {
                write_chunk_header(chunk.len(), &mut out);
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            write_chunk_end(&trailers, &mut out);
            let again = decode(&out, &[], &Limits::DEFAULT);
            assert_eq!(again, Ok((data, trailers, Some(out.len()))), "written anew");
        }
    }
}
