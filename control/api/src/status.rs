//! What a node reports back.

use serde::{Deserialize, Serialize};

/// Status of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeStatus {
    /// Name of the node.
    pub node: String,
    /// Status per document, by name.
    pub documents: Vec<DocumentStatus>,
    /// Status per VIP balanced here.
    pub vips: Vec<VipStatus>,
    /// The proxy this agent supervises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyStatus>,
    /// Things that went wrong and are being retried.
    pub errors: Vec<ItemError>,
    /// Every desired step is done.
    pub converged: bool,
}

/// Status of one document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DocumentStatus {
    /// Name of the document.
    pub name: String,
    /// Generation in the ledger.
    pub generation: u64,
    /// Generation whose steps were all carried out.
    pub observed_generation: u64,
    /// Why the newest version in the source was refused; the ledger's stays in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<ItemError>,
}

/// An error and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ItemError {
    /// Item or path of the field (`vips[0].pool`, `backend nodes/n1`).
    pub item: String,
    /// What is wrong.
    pub message: String,
    /// Worth trying again without a change from outside.
    pub retry: bool,
}

/// Status of a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VipStatus {
    /// Name in the placement.
    pub name: String,
    /// `address:port/protocol`.
    pub address: String,
    /// Backends of its pool.
    pub backends: Vec<BackendStatus>,
}

/// Status of a backend in a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackendStatus {
    /// Name in the placement.
    pub name: String,
    /// `healthy`, `down`, `unknown`.
    pub health: String,
    /// `active`, `drain`.
    pub state: String,
    /// Configured weight.
    pub weight: u32,
    /// Share of the VIP's slots now, 0..=1.
    pub share: f64,
    /// Packets and bytes forwarded since the tables were made.
    pub packets: u64,
    /// See `packets`.
    pub bytes: u64,
}

/// Status of the supervised proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProxyStatus {
    /// Process id.
    pub pid: u32,
    /// Revision in effect.
    pub revision: u64,
    /// Sites in its table.
    pub sites: u64,
    /// Times it was started again after it died.
    pub restarts: u64,
}
