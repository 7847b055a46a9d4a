//! ReferenceGrant: who in other namespaces may name what is in this one.

use serde::Deserialize;

use super::value::{GroupName, KindName, NamespaceName, ObjectName};

/// `ReferenceGrant.spec`: any of `from` may refer to any of `to`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ReferenceGrantSpec {
    /// Who may refer, 1 to 16.
    pub from: Vec<GrantFrom>,
    /// To what, 1 to 16; always of the grant's own namespace.
    pub to: Vec<GrantTo>,
}

/// Objects that may refer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct GrantFrom {
    /// Empty for Kubernetes' core group.
    pub group: GroupName,
    /// For example `HTTPRoute`.
    pub kind: KindName,
    /// Where they are.
    pub namespace: NamespaceName,
}

/// Objects that may be referred to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct GrantTo {
    /// Empty for Kubernetes' core group.
    pub group: GroupName,
    /// For example `Service`.
    pub kind: KindName,
    /// Only the one of this name.
    pub name: Option<ObjectName>,
}
