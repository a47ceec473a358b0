//! One decoder for all framings.

use super::{BodyError, BodyFraming, ChunkedDecoder, Limits};

/// What a step of a body decoder found. Offsets are relative to the input of that step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyStep {
    /// `input[start..end]` is body data; go on at `end`.
    Data {
        /// First byte of data.
        start: usize,
        /// First byte behind it.
        end: usize,
    },
    /// All input is consumed and more is needed.
    More,
    /// The body ended; `consumed` bytes of this input belong to it, what is behind is the next message.
    End {
        /// Bytes consumed by this step.
        consumed: usize,
    },
}

impl BodyStep {
    /// Bytes of the input this step consumed.
    pub const fn consumed(self, input_len: usize) -> usize {
        match self {
            BodyStep::Data { end, .. } => end,
            BodyStep::More => input_len,
            BodyStep::End { consumed } => consumed,
        }
    }
}

/// Finds the data and the end of a body.
#[derive(Clone, Debug)]
pub enum BodyDecoder {
    /// Bytes still to come; 0: ended.
    Length(u64),
    /// Chunked.
    Chunked(Box<ChunkedDecoder>),
    /// Until the connection closes.
    UntilClose,
}

impl BodyDecoder {
    /// A decoder at the start of a body.
    pub fn new(framing: BodyFraming) -> Self {
        match framing {
            BodyFraming::None => BodyDecoder::Length(0),
            BodyFraming::Length(n) => BodyDecoder::Length(n),
            BodyFraming::Chunked => BodyDecoder::Chunked(Box::default()),
            BodyFraming::UntilClose => BodyDecoder::UntilClose,
        }
    }

    /// As [`ChunkedDecoder::step`]. A body of known length reports [`BodyStep::End`] on the step after its last
    /// data (call with what is left of the input, empty if nothing is).
    pub fn step(&mut self, input: &[u8], limits: &Limits) -> Result<BodyStep, BodyError> {
        match self {
            BodyDecoder::Length(0) => Ok(BodyStep::End { consumed: 0 }),
            BodyDecoder::Chunked(decoder) => decoder.step(input, limits),
            _ if input.is_empty() => Ok(BodyStep::More),
            BodyDecoder::UntilClose => Ok(BodyStep::Data { start: 0, end: input.len() }),
            BodyDecoder::Length(left) => {
                let end = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= end as u64;
                Ok(BodyStep::Data { start: 0, end })
            }
        }
    }

    /// The sender closed the connection: fine only where closing ends the body, or it had ended.
    pub fn on_close(&self) -> Result<(), BodyError> {
        match self {
            BodyDecoder::UntilClose | BodyDecoder::Length(0) => Ok(()),
            BodyDecoder::Chunked(decoder) if decoder.is_ended() => Ok(()),
            BodyDecoder::Length(_) | BodyDecoder::Chunked(_) => Err(BodyError::UnexpectedEnd),
        }
    }
}
