//! How packets of a VIP reach a backend: the mode and the fields that belong to one mode only.

use super::error::Errors;
use super::types::Forward;
use crate::placement::{Mode, Vip};

/// Checks mode, pool and the mode's own fields of `vips[i]`.
pub(super) fn forward(i: usize, vip: &Vip, e: &mut Errors) -> Option<Forward> {
    let at = |field: &str| format!("vips[{i}].{field}");
    if vip.gue.is_some() && vip.mode != Mode::Gue {
        e.add(at("gue"), "belongs to mode gue only");
    }
    let pool = match (&vip.pool, vip.mode) {
        (None, Mode::Local) => return Some(Forward::Local),
        (Some(_), Mode::Local) => {
            e.add(at("pool"), "a VIP of mode local has no pool");
            return None;
        }
        (None, _) => {
            e.add(at("pool"), "is missing; only mode local has none");
            return None;
        }
        (Some(pool), _) => pool.clone(),
    };
    match vip.mode {
        Mode::Local => None,
        Mode::L2Direct => Some(Forward::L2Direct { pool }),
        Mode::Ipip => Some(Forward::Ipip { pool }),
        Mode::Gue => {
            let port = vip.gue.clone().unwrap_or_default().port;
            if port == 0 {
                e.add(at("gue.port"), "port 0 is no port");
            }
            Some(Forward::Gue { pool, port })
        }
    }
}
