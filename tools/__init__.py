"""One file per command: parse, one library call, emit. Installed under the name `cnnkit_tools`."""
