//! Field sections: the lines between start line and empty line.
