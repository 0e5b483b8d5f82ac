"""Pure logic: no sockets, no protobuf, no asyncio. `services` call it, it calls `kernels`."""
