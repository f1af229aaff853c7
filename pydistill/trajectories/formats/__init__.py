"""Expert files of other tools: MTT's replay buffers and MCT's waypoint buffers."""
