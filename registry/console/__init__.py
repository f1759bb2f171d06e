"""The console: the web application on which people work with a registry.

This folder has what all pages share: the layout, the look, the forms, the way in and the dashboard. The pages
of a feature stand in its own folder, beside its routes:

    registry/FEATURE/pages.py                   a Blueprint called ``FEATURE_pages``, under /console/FEATURE
    registry/FEATURE/templates/FEATURE/*.html   its templates: {% extends "console/layout.html" %}

A page is a view like any other: it names its permission with ``@requires`` (:mod:`registry.api.access`),
works through services, and returns :func:`registry.console.page.render`:

    pages = Blueprint("case_pages", __name__, url_prefix="/console/cases", template_folder="templates")

    @pages.get("")
    @requires(Permission.RESOLVE)
    def index() -> str:
        with home().database.read() as session:
            found = listing(session, select(...), Case.id)
        return render("cases/index.html", cases=found)

    @pages.post("/new")
    @requires(Permission.RESOLVE)
    @accepts(64 << 20)                          # bytes of a body, where a megabyte is too little
    def add() -> Answer:
        form = Form.sent()
        title = form.text("title", longest=200)
        with form.refusals():                   # a RegistryError becomes a sentence in the form
            if form.ok:
                ...
                return done(url_for("case_pages.show", case_id=...), "The case is open.")
        return render("cases/new.html", form=form), 422

Templates take their parts from ``console/macros.html``, known as ``ui`` where the layout is extended. A form
that is posted begins with ``{{ ui.csrf() }}``. Register the blueprint in :func:`registry.app._register_pages`
and name its first page in :data:`registry.console.navigation.ENTRIES`: an entry is shown once it has a page,
to whom its permission allows it. Who has no session is sent to sign in and comes back; what is refused or
fails becomes a page by itself (:mod:`registry.console.errors`).

Scripts and styles come from ``web/src``: ``make assets`` (Node) builds them into ``assets/``, and what it
builds is committed, with the licences of what it contains, so that the console needs no Node where it is
only used. The content security policy allows scripts and styles of our own files only: nothing inline, no
``style`` attribute. A page that runs WebAssembly says ``allow_wasm()``; one with a script of its own adds
``web/src/NAME.js`` and, in its block ``head``, ``<script type="module" src="{{ asset('NAME.js') }}">``.
"""
