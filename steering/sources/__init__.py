"""Where directions come from: one file a method, each a plain function that gives a `Direction`."""
