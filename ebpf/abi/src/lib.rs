//! Layouts, limits, drop reasons and hashes shared by the kernel programs, the loader and the model.
