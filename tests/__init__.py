"""The tests; a package, so that ``from tests.clouds import ...`` means this folder."""
