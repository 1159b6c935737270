"""A local, read-only web page over a run: `extra-rl inspect RUN`.

`index` makes what the run folder holds searchable, `prefixes` and `memories` answer what the page asks of one
prompt, `markup` turns it into HTML, `web` puts the page together with NiceGUI, `access` lets in who may see
it. Nothing but the index, which lies in the user's cache folder, is ever written.
"""
