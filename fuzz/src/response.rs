//! Response heads.

use sluice_core::http1::{
    BodyFraming, DownstreamContext, FieldId, HitContext, HttpDate, Limits, Method, OutFraming, Parse,
    ProxyName, ResponseError, ResponseHead, Version, downstream_framing, parse_response, stored_fields,
    write_downstream_response, write_freshened_head, write_hit, write_not_modified, write_partial_hit,
    write_stored_head,
};

/// A parse in pieces equals a parse of the whole; what is forwarded, stored, freshened or answered from the
/// store parses with the framing that was decided.
pub fn http1_response(data: &[u8]) {
    let small = Limits { head_bytes: 300, fields: 6, ..Limits::DEFAULT };
    let cuts = crate::cuts(data);
    let every_byte: Vec<usize> = (0..data.len().min(2_000)).collect();
    for (limits, method) in
        [(Limits::DEFAULT, Method::Get), (Limits::DEFAULT, Method::Head), (small, Method::Get)]
    {
        let (result, head) = parse(data, &[], &limits, method);
        for at in [&cuts, &every_byte] {
            let (again, pieces) = parse(data, at, &limits, method);
            assert_eq!(again, result, "split");
            if matches!(result, Ok(Parse::Complete { .. })) {
                assert_eq!(format!("{pieces:?}"), format!("{head:?}"), "split");
            }
        }
        if matches!(result, Ok(Parse::Complete { .. })) && !head.is_interim() {
            for client in [Version::Http11, Version::Http10] {
                forwarded(data, &head, method, client);
            }
        }
    }
}

fn parse(
    data: &[u8],
    cuts: &[usize],
    limits: &Limits,
    method: Method,
) -> (Result<Parse, ResponseError>, ResponseHead) {
    let mut head = ResponseHead::new();
    for &cut in cuts {
        match parse_response(&data[..cut], limits, method, &mut head) {
            Ok(Parse::Partial) => {}
            decided => return (decided, head),
        }
    }
    let result = parse_response(data, limits, method, &mut head);
    (result, head)
}

fn forwarded(data: &[u8], head: &ResponseHead, method: Method, client: Version) {
    let (name, date) = (ProxyName::new("n1"), HttpDate::new(784_111_777));
    let framing = downstream_framing(head.framing, head.declared_length, client, method, head.status);
    assert!(framing != OutFraming::Chunked || client == Version::Http11);
    let mut out = Vec::new();
    let ctx = DownstreamContext {
        name: &name,
        client,
        framing,
        keep_alive: true,
        age_s: Some(3),
        date: &date,
        strip: 0,
        extra: b"",
    };
    write_downstream_response(data, head, &ctx, &mut out);
    check(&out, method, head.status, framing);

    let mut stored = Vec::new();
    write_stored_head(data, head, &name, &date, 0, &mut stored);
    let never = FieldId::ContentLength.bit() | FieldId::TransferEncoding.bit() | FieldId::Connection.bit();
    assert!(stored_fields(&stored).all(|(_, _, id)| never & id.bit() == 0));
    let hit = HitContext { client, framing, keep_alive: true, age_s: 1, extra: b"" };
    for stored in [freshened(&stored, data, head, &name, &date), stored] {
        out.clear();
        write_hit(&stored, &hit, &mut out);
        check(&out, method, head.status, framing);
        out.clear();
        write_not_modified(&stored, &hit, &mut out);
        check(&out, method, 304, OutFraming::None);
        out.clear();
        write_partial_hit(&stored, Some((1, 3)), 9, &hit, &mut out);
        check(&out, method, 206, OutFraming::Length(2));
        out.clear();
        write_partial_hit(&stored, None, 9, &hit, &mut out);
        check(&out, method, 416, OutFraming::Length(0));
    }
}

/// Freshened by itself: the same fields, no more and no fewer names.
fn freshened(stored: &[u8], data: &[u8], head: &ResponseHead, name: &ProxyName, date: &HttpDate) -> Vec<u8> {
    let mut out = Vec::new();
    write_freshened_head(stored, data, head, name, date, &mut out);
    let names = |head: &[u8]| {
        let mut names: Vec<String> =
            stored_fields(head).map(|(n, _, _)| String::from_utf8_lossy(n).to_ascii_lowercase()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(&out), names(stored));
    out
}

fn check(out: &[u8], method: Method, status: u16, framing: OutFraming) {
    let wide = Limits { head_bytes: 65_535, fields: 255, ..Limits::DEFAULT };
    let mut again = ResponseHead::new();
    assert_eq!(parse_response(out, &wide, method, &mut again), Ok(Parse::Complete { head_len: out.len() }));
    assert_eq!(again.status, status);
    let expected = match framing {
        _ if method == Method::Head || matches!(status, 204 | 304) => BodyFraming::None,
        OutFraming::Length(n) => BodyFraming::Length(n),
        OutFraming::Chunked => BodyFraming::Chunked,
        OutFraming::None | OutFraming::UntilClose => BodyFraming::UntilClose,
    };
    assert_eq!(again.framing, expected);
}
