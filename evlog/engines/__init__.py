"""Engines that keep a store on a server. Each is one module, imported when `evlog.open` gets its URL."""
