"""The family of images that the user gives as batches."""

from gendd.family import Family, paper_protocol
from gendd.own.config import Batches

FAMILY = Family(name="gendd.own", data=Batches(), paper=paper_protocol(repeats=10, steps=64))
