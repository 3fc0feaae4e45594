"""Engines that run a stage; each is imported only when it is used."""
