//! System tests in network namespaces.
