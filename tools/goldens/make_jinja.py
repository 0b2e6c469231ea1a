"""Short templates and what Jinja2 makes of them, set up as transformers sets it up; needs jinja2 alone.

Every snippet is our own.
"""
import datetime
import json

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from paths import FIXTURES

CONTEXT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi, <b>you</b> & \"me\"\n"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
    ],
    "text": "  Hello, World\n",
    "name": "get_weather",
    "numbers": [3, 1, 2],
    "tool": {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a \"city\"",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 3}},
                "required": ["city"],
            },
        },
    },
    "nothing": None,
    "yes": True,
    "ratio": 1.5,
    "whole": 2.0,
    "bos_token": "<s>",
}

SNIPPETS = r"""
{{ 'a,b,c'.split(',') }}
{{ 'a,b,c'.split(',', 1) }}
{{ 'a,b,c'.split(',', maxsplit=1) }}
{{ 'a,b,c'.split(sep=',') }}
{{ '  a  b '.split() }}
{{ 'a,b,c'.split(',')[-1] }}
{{ 'a,b,c'.rsplit(',', 1) }}
{{ 'a,b,c'.rsplit(',') }}
{{ '  a  b c '.rsplit(None, 1) }}
{{ ' a  b c '.split(None, 1) }}
{{ ''.split(',') }}
{{ ''.split() }}
{{ 'a=b=c'.partition('=') }}
{{ 'abc'.partition('=') }}
{{ 'a=b=c'.rpartition('=') }}
{{ 'abc'.rpartition('=') }}
{{ 'a=b'.partition('=')[2] }}
{{ 'prefix_x'.removeprefix('prefix_') }}
{{ 'x_suffix'.removesuffix('_suffix') }}
{{ 'x'.removesuffix('') }}
{{ '7'.zfill(3) }}
{{ '-7'.zfill(4) }}
{{ 'abc'.zfill(2) }}
{{ 'ab'.ljust(4) }}|
{{ 'ab'.rjust(4, '.') }}
{{ 'ab'.center(5, '*') }}
{{ 'abc'.center(6) }}|
{{ 'abcb'.index('b') }}
{{ 'abcb'.rindex('b') }}
{{ 'abcb'.find('b') }} {{ 'abcb'.find('x') }} {{ 'abcb'.rfind('b') }}
{{ 'abcb'.find('b', 2) }}
{{ 'abcb'.count('b') }} {{ 'aaaa'.count('aa') }}
{{ 'abcb'.count('b', 2) }}
{{ 'Hello'.swapcase() }}
{{ 'STRASSE'.casefold() }}
{{ 'hello world'.title() }} {{ 'hELLO'.capitalize() }}
{{ "it's a dog's".title() }}
{{ 'a\tb'.expandtabs(4) }}
{{ 'a b'.isidentifier() }} {{ 'ab'.isidentifier() }}
{{ 'Ab'.istitle() }} {{ 'AB'.istitle() }}
{{ 'ab\n'.isprintable() }}
{{ '12'.isdecimal() }} {{ '1²'.isdigit() }} {{ '½'.isnumeric() }} {{ '½'.isdigit() }}
{{ 'abc'.isalnum() }} {{ 'a c'.isalpha() }} {{ ' \t'.isspace() }} {{ 'abc'.islower() }} {{ 'ABC'.isupper() }} {{ 'é'.isascii() }}
{{ 'abc'.startswith('b', 1) }}
{{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith(('x', 'c')) }}
{{ 'aXbX'.replace('X', '-') }} {{ 'aXbX'.replace('X', '-', 1) }}
{{ 'a-b'.translate({45: '_'}) }}
{{ 'a\nb\r\nc'.splitlines() }}
{{ 'a\n\nb\n'.splitlines(True) }}
{{ 'a\x0bb'.splitlines() | length }}
{{ text.strip() }}|{{ text.lstrip() }}|{{ text.rstrip() }}
{{ 'xxaxx'.strip('x') }} {{ 'xya'.lstrip('yx') }} {{ 'axy'.rstrip('yx') }}
{{ text.upper().lower() }}
{{ ', '.join(['a', 'b']) }}
{{ '-'.join('abc') }}
{{ '{} {}'.format('a', 1) }}
{{ '{0} {x}'.format('a', x=2) }}
{{ '{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c') }}
{{ '{:.2f} {:03d} {:,}'.format(1.5, 7, 1234567) }}
{{ '%s' % 'x' }}
{{ '%s' % name }}
{{ '%s and %s' % ('a', 'b') }}
{{ '%d items' % 3 }}
{{ '%05.2f' % 3.14159 }}
{{ '%s' % numbers | length }}
{{ '%s' % [1, 2] }}
{{ '%s' % nothing }}
{{ '%(a)s-%(b)s' % {'a': 1, 'b': 2} }}
{{ 'a' ~ '%s' % 'x' ~ 'b' }}
{{ '100%%' % () }}
{{ '%s' % 'x' + 'y' }}
{{ ('%s' % 'x').upper() }}
{{ '%s!' % name if yes else 'no' }}
{{ '%s' % tool.function.name }}
{{ '%x' % 255 }}
{% set fmt = '<%s>' %}{{ fmt % name }}
{% set fmt = '<%s %s>' %}{{ fmt % (name, 1) }}
{{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }}
{{ 2 * 7 % 4 }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 3 }} {{ 2 ** -1 }}
{{ 1 + 2.0 }} {{ 1.0 }} {{ 1e3 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1e-5 }}
{{ ratio }} {{ whole }} {{ whole | int }} {{ '3' | int + 1 }} {{ 'x' | int(7) }} {{ '2.5' | float }}
{{ true }} {{ none }} {{ yes }} {{ nothing }} {{ undefined_thing }}
{{ True }} {{ None }} {{ False }}
{{ true + 1 }}
{{ [1, 'a', none, true, 1.5] }}
{{ {'a': 1, 'b': [1, 2]} }}
{{ ('a', 1) }}
{{ ('a',) }}
{{ ["it's", 'say "x"', "a\nb", 'é', '\\'] }}
{{ [] }} {{ {} }} {{ () }}
{{ 'a' is string }} {{ 1 is string }} {{ none is string }}
{{ 'a' is sequence }} {{ [1] is sequence }} {{ {} is sequence }} {{ 1 is sequence }} {{ (1,) is sequence }}
{{ 'a' is iterable }} {{ {} is iterable }} {{ 1 is iterable }} {{ none is iterable }}
{{ {} is mapping }} {{ [] is mapping }} {{ messages[0] is mapping }} {{ 'a' is mapping }}
{{ 1 is number }} {{ 1.5 is number }} {{ true is number }} {{ 'a' is number }}
{{ 1 is integer }} {{ true is integer }} {{ 1.0 is integer }} {{ 1.5 is float }}
{{ true is boolean }} {{ 1 is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }}
{{ none is none }} {{ nothing is none }} {{ x is none }} {{ x is undefined }} {{ x is defined }} {{ none is defined }}
{{ 4 is even }} {{ 4 is odd }} {{ 4 is divisibleby 2 }} {{ 4 is divisibleby(3) }}
{{ 'a' is eq 'a' }} {{ 1 is in [1, 2] }} {{ 3 is not in [1] }} {{ 1 is lt 2 }} {{ 'a' is sameas 'a' }}
{{ 'ab' is lower }} {{ 'AB' is upper }} {{ raise_exception is callable }} {{ 1 is callable }}
{{ 'upper' is filter }} {{ 'nonsense' is filter }} {{ 'odd' is test }}
{{ [1] is not mapping and 'x' is string }}
{{ 'a' in 'abc' }} {{ 'x' not in 'abc' }} {{ 'role' in messages[0] }} {{ 1 in [1] }}
{{ messages[0].role == 'system' and messages[1]['role'] == 'user' }}
{{ messages | length }} {{ messages | count }} {{ text | length }}
{{ messages[-1].content.split('</think>')[-1].lstrip('\n') }}
{{ messages[-1].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}
{{ messages[1:] | length }} {{ messages[::-1][0].role }} {{ messages[:-1][-1].role }}
{{ 'abcdef'[1:3] }} {{ 'abcdef'[-2:] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[0] }} {{ 'abcdef'[::2] }}
{{ messages[10] is defined }} {{ messages[0].nothing is defined }} {{ 'abc'[10] is defined }}
{{ messages | map(attribute='role') | list }}
{{ messages | map(attribute='role') | join(', ') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ messages | selectattr('role', '==', 'user') | map(attribute='content') | first | trim }}
{{ messages | rejectattr('role', 'eq', 'system') | map(attribute='role') | join(',') }}
{{ messages | selectattr('role', 'in', ['user', 'system']) | list | length }}
{{ messages | selectattr('nothing', 'defined') | list }}
{{ messages | selectattr('role') | list | length }}
{{ numbers | map('string') | join('') }}
{{ ['a', 'b'] | map('upper') | list }}
{{ [[1, 2], [3]] | map('first') | list }}
{{ ['a', ''] | select | list }} {{ [1, 2, 3] | select('odd') | list }} {{ [1, 2] | reject('odd') | list }}
{{ numbers | sort }} {{ numbers | sort(reverse=true) }} {{ ['b', 'A'] | sort }} {{ ['b', 'A'] | sort(case_sensitive=true) }}
{{ numbers | max }} {{ numbers | min }} {{ numbers | sum }} {{ [] | sum }}
{{ numbers | first }} {{ numbers | last }} {{ [] | first is defined }} {{ 'abc' | first }} {{ 'abc' | last }}
{{ numbers | reverse | list }} {{ 'abc' | reverse }}
{{ [1, 2, 1] | unique | list }} {{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | slice(2) | list }}
{{ {'b': 1, 'a': 2} | dictsort }} {{ {'b': 1, 'a': 2} | items | list }} {{ {'b': 1, 'a': 2} | list }}
{{ {'b': 1, 'a': 2} | dictsort(by='value') }}
{{ {'b': 1, 'a': 2}.items() | list }} {{ {'b': 1}.keys() | list }} {{ {'b': 1}.values() | list }} {{ {'b': 1}.get('b') }} {{ {'b': 1}.get('x') }} {{ {'b': 1}.get('x', 5) }}
{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }}
{{ dict([('a', 1)]) }}
{{ range(3) | list }} {{ range(1, 6, 2) | list }} {{ range(3, 0, -1) | list }}
{{ range(3) }}
{{ [1, 2] + [3] }} {{ [0] * 3 }} {{ 'ab' * 2 }} {{ (1, 2) + (3,) }}
{{ 'x' | default('d') }} {{ y | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ none | default('d') }} {{ none | default('d', boolean=true) }}
{{ y | d('e') }}
{{ 'a b' | replace(' ', '_') }} {{ 'aaa' | replace('a', 'b', 2) }}
{{ 'hello world' | title }} {{ 'hello' | capitalize }} {{ 'hi' | upper }} {{ 'HI' | lower }} {{ text | trim }} {{ 'xax' | trim('x') }}
{{ 'a\nb' | indent }} {{ 'a\nb' | indent(2) }} {{ 'a\nb' | indent(2, true) }} {{ 'a\n\nb' | indent(2, first=false, blank=true) }}
{{ 'abc' | list }} {{ 'a b c' | wordcount }} {{ 'abcdefgh' | truncate(5) }} {{ 'abcdefgh' | truncate(6, true, '..', 0) }}
{{ '%s-%s' | format('a', 2) }} {{ '%s' | format(name) }}
{{ 3.7 | round }} {{ 3.14159 | round(2) }} {{ 3.2 | round(0, 'ceil') }} {{ 3 | round }} {{ 2.5 | round | int }}
{{ -3 | abs }} {{ 1.9 | int }} {{ 3 | float }} {{ 3 | string }} {{ '5' | int * 2 }}
{{ '<a href="x">' | e }} {{ '<a>' | escape }} {{ '<a>' | safe }}
{{ '<p>a  b</p>' | striptags }} {{ 'a b' | urlencode }} {{ 'a/b?c=d' | urlencode }}
{{ 'x' | center(5) }}| {{ 1000 | filesizeformat }} {{ [1, [2]] | tojson }}
{{ {'a': 1} | xmlattr }} {{ 'ab cd ef' | wordwrap(5) }}
{{ messages | groupby('role') | map(attribute='grouper') | list }}
{{ messages | map(attribute='content', default='-') | list | length }} {{ [{'a': 1}, {}] | map(attribute='a', default=0) | list }}
{{ numbers | join }} {{ numbers | join('-') }} {{ [{'n': 1}, {'n': 2}] | join(',', attribute='n') }} {{ [{'n': 1}, {'n': 2}] | sum(attribute='n') }}
{{ [{'n': 2}, {'n': 1}] | sort(attribute='n') }} {{ [{'n': 2}, {'n': 1}] | min(attribute='n') }}
{{ {'a': {'b': 1}} | attr('a') is defined }} {{ numbers | random in numbers }}
{{ tool | tojson }}
{{ tool | tojson(indent=2) }}
{{ tool | tojson(indent=4) }}
{{ tool | tojson(separators=(',', ':')) }}
{{ tool | tojson(separators=(', ', ': '), sort_keys=true) }}
{{ tool | tojson(sort_keys=true) }}
{{ tool | tojson(indent=2, sort_keys=true) }}
{{ tool | tojson(indent=2, separators=(',', ': ')) }}
{{ 'é<>&\'"\u2028' | tojson }} {{ 'é😀' | tojson(ensure_ascii=true) }} {{ 'é' | tojson(ensure_ascii=false) }}
{{ [1.0, 1e20, 1e16, 1e-7, 0.1, true, none] | tojson }}
{{ [] | tojson }} {{ {} | tojson }} {{ [[], {}] | tojson(indent=2) }} {{ '' | tojson }}
{{ {'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=True) }} {{ {1: 2} | tojson }}
{{ tool | tojson(indent=0) }}
{{ 'x' | tojson | tojson }} {{ (1, 2) | tojson }} {{ '\x7f\x01' | tojson }}
{{ tool.function.parameters.properties | dictsort }}
{% for k, v in tool.function.parameters.properties.items() %}{{ k }}:{{ v.type }}{{ '' if loop.last else ',' }}{% endfor %}
{% for k, v in tool.function.parameters.properties | dictsort %}{{ loop.index }}{{ k }} {% endfor %}
{% for k in tool.function %}{{ k }} {% endfor %}
{% for m in messages %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }} {% endfor %}
{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}>{{ loop.nextitem.role if loop.nextitem is defined }} {% endfor %}
{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }} {% endfor %}
{% for m in messages if m.role != 'system' %}{{ m.role }} {% else %}none{% endfor %}
{% for m in [] %}x{% else %}empty{% endfor %}
{% for m in messages %}{% if m.role == 'user' %}{% break %}{% endif %}{{ m.role }}{% endfor %}
{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}
{% for i in range(2) recursive %}{{ i }}{% endfor %}
{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}
{% set ns = namespace(x=1, found=false) %}{% for i in [1] %}{% set ns.x = 2 %}{% endfor %}{{ ns.x }}{{ ns.found }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set x %}block {{ name }}{% endset %}{{ x }} {{ x is string }}
{% set x | upper %}block{% endset %}{{ x }}
{% if messages and not nothing %}a{% elif yes %}b{% else %}c{% endif %}
{% if '' %}a{% elif [] %}b{% elif {} %}c{% elif 0 %}d{% else %}e{% endif %}
{{ 'a' if yes }} {{ 'a' if not yes }} {{ 'a' if no is defined else 'b' }}
{{ nothing or 'x' }} {{ '' or [] }} {{ 'a' and 'b' }} {{ not 'a' }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1} }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 }}
{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, b=3) }} {{ f(1, 4) }}
{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, x=2) }}
{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}x{% endcall %}
{% macro f(a) %}{{ a | upper }}{% endmacro %}{% set y = f('q') %}{{ y }} {{ y is string }}
{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% filter upper %}abc{% endfilter %} {% with x = 1 %}{{ x }}{% endwith %} {% raw %}{{ x }}{% endraw %}
{% generation %}abc {{ name }}{% endgeneration %} after
{%- generation -%}  abc  {%- endgeneration -%}  after
{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}
{# comment #}a{#- comment -#} b
  {%- if yes %}  a  {%- endif %}  b
{{- ' a ' -}}
{{ "a\\nb" }} {{ 'a\'b' }} {{ "a\tb" }} {{ 'é' }} {{ '\u00e9' }} {{ "\x41" }}
{{ 1_000 }} {{ 0x1f }} {{ 0b11 }} {{ 0o17 }}
{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%H:%M') }} {{ strftime_now('%d %B %Y') }} {{ strftime_now('%H:%M:%S %p %I') }}
{{ strftime_now('%A %-d %b %y %j %e') }} {{ strftime_now('%F %T') }} {{ strftime_now('%D %R %u %w') }} {{ strftime_now('%U %W %V %G') }} {{ strftime_now('%f|%z|%Z|%s') | length > 0 }}
{{ strftime_now('%c') }} {{ strftime_now('%x %X') }} {{ strftime_now('%C %h %n%t %-m %-H %-M %-S %-I %k %l') }}
{{ messages[0].items() | list }} {{ messages[0].keys() | list }} {{ messages[0].get('content') }} {{ messages[0].get('x', 'y') }}
{{ messages[0] }}
{{ messages[0] | tojson }} {{ messages | tojson }}
{{ messages[0] | items | list }} {{ messages[0] | dictsort }} {{ messages[0] | length }} {{ messages[0] | list }}
{{ messages[0].content | length > 3 and messages[0]['content'][:2] == 'Be' }}
{{ messages[0].copy() }} {{ [1, 2].copy() }}
{{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }} {{ (1, 2).index(1) }}
{{ lipsum is defined }} {{ cycler is defined }} {{ joiner is defined }} {{ namespace is defined }} {{ dict is defined }} {{ range is defined }} {{ self is defined }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}
{% set j = joiner(', ') %}{% for i in [1, 2] %}{{ j() }}{{ i }}{% endfor %}
{{ (1.5).is_integer() }} {{ (2.0).is_integer() }}
{{ 'abc'.__len__ is defined }}
{{ ''.join(messages | map(attribute='role')) }}
{{ messages | map(attribute='content') | map('length') | list }} {{ messages | map('tojson') | first }}
{{ tool.function.parameters.required | join(', ') }} {{ 'city' in tool.function.parameters.required }} {{ tool['function']['name'] }}
{{ ({'items': [1]}).items is callable }} {{ ({'items': [1]})['items'] }}
{% for p, f in tool.function.parameters.properties | items %}{{ p }}={{ f }};{% endfor %}
{{ [tool] | tojson(indent=None) }} {{ (tool | tojson) is string }} {{ tool.function | string | length }}
{{ tool.function.parameters.properties.days.default + 1 }} {{ tool.function.parameters.properties.city.default is defined }}
{{ 'a' 'b' }} {{ 'a' + 'b' }} {{ 5 ~ 5 }}
{{ text | trim | length }} {{ (text ~ '!') | trim }} {{ text | trim ~ '!' }}
{{ -1 | abs }} {{ (-1) | abs }} {{ - 1 + 2 }} {{ +1 }} {{ not true or true }} {{ 2 + 3 * 4 }} {{ (2 + 3) * 4 }}
{%- set roles = messages | map(attribute='role') | list %}{{ roles == ['system', 'user', 'assistant'] }} {{ roles[1:] }} {{ roles.index('user') }}
{% do numbers %}
{{ [1,2,3] | last if true else 0 }} {{ [1, 2, 3,] }} {{ {'a': 1,} }}
{{ raise_exception('no') }}
{{ 'x'.nonsense() }}
{{ nothing.x }}
{{ undefined_thing.x }}
{{ 'a' + 1 }}
{{ messages.append(1) }}
{{ 1 / 0 }}
{{ x() }}
{{ 'abcb'.index('z') }}
{{ '%d' % 'x' }}
{{ '%s %s' % 'x' }}
{% include 'x' %}
{{ ''.__class__ }}
{{ ''.__class__.__mro__ }}
{{ 'a' | nonsense }}
{% nonsense %}
{{ namespace(a=1) }}
{{ [1, 2] | tojson(nonsense=1) }}
{{ now is defined }} {{ tools is none }} {{ documents is none }}
""".strip("\n").split("\n")

# Templates of more than a line; a way of writing that published templates share.
BLOCKS = [
    "{% if yes %}\nA\n{% endif %}\nB\n",
    "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n        {{- '<u>' + m.content | trim + '</u>' }}\n    {%- else %}\n        {{- m.role }}\n    {%- endif %}\n{%- endfor %}\n",
    "  {% set a = 1 %}\n  {{ a }}\n\n",
    "{{ 1 }}\n{{ 2 }}\n",
    "{% for i in range(2) %}\n{{ i }}\n{% endfor %}\nend",
    "a {# c\nd #}\nb",
    "{%+ if yes %}  a{% endif +%}\nb",
    "{% if yes -%}\n   a\n{%- endif %}",
    "{% raw %}\n{{ x }}\n{% endraw %}\n",
    "a\r\nb{{ 'c\r\nd' }}",
    "{% generation %}\nabc\n{% endgeneration %}\nx",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{{ '''a''' }}",
    "{{ {'type': 'function', 'function': {'name': name}} | tojson(indent=2) | indent(4) }}",
    "{%- macro render(v, depth=0) %}\n  {%- if v is mapping %}\n    {%- for k, x in v.items() %}{{ '  ' * depth }}{{ k }}:\n{{ render(x, depth + 1) }}{% endfor %}\n  {%- elif v is string %}{{ '  ' * depth }}{{ v }}\n{% elif v is iterable %}{% for x in v %}{{ render(x, depth) }}{% endfor %}\n  {%- else %}{{ '  ' * depth }}{{ v }}\n{% endif %}\n{%- endmacro %}{{ render(tool) }}",
    "{%- set ns = namespace(multi_step=true, last=messages | length - 1) %}\n{%- for m in messages[::-1] %}\n    {%- set i = (messages | length - 1) - loop.index0 %}\n    {%- if ns.multi_step and m.role == 'user' %}\n        {%- set ns.multi_step = false %}\n        {%- set ns.last = i %}\n    {%- endif %}\n{%- endfor %}\n{{- ns.last }}",
    "{{ 'x' ~ ('<%s>' % name) ~ ('%s=%d' % ('n', 3)) ~ '%' }}",
    "{% set items = ['%s:%s' % (m.role, m.content | length) for_ in []] %}",
    "{% set parts = [] %}{% for m in messages %}{% set parts = parts + ['%s: %s' % (m.role, m.content)] %}{% endfor %}{{ parts | length }}",
    "{{ '%s' % ('%s' % 'in') }}",
    "{{ '%' ~ 's' }} {{ 'a % b' }} {{ '%s %% %s' % ('a', 'b') }}",
    "{% if '%s' % name == 'get_weather' %}same{% endif %}",
    "{% for x in ['%s' % 1, '%s' % 2] %}{{ x }}{% endfor %}",
    "{{ {'a': '%s' % 1}['a'] }} {{ ('%s' % 1, 2) }} {{ 'b%s' % 1 in ['b1'] }} {{ ('%s' % 1) is string }}",
]


def environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(format):
        return datetime.datetime(2025, 3, 5, 14, 7, 9).strftime(format)

    class Generation(jinja2.ext.Extension):
        """The tag with which training marks what the assistant wrote; it writes its contents."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            call = jinja2.nodes.CallBlock(self.call_method("_written"), [], [], body)
            return call.set_lineno(line)

        def _written(self, caller):
            return caller()

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def main():
    env = environment()
    cases = []
    for source in SNIPPETS + BLOCKS:
        try:
            cases.append({"template": source, "output": env.from_string(source).render(**CONTEXT, tools=None, documents=None)})
        except Exception as error:  # What fails there must fail here; the words may differ.
            cases.append({"template": source, "error": f"{type(error).__name__}: {error}"})
    with open(FIXTURES / "jinja.json", "w", encoding="utf-8") as file:
        json.dump({"context": CONTEXT, "cases": cases}, file, ensure_ascii=False, indent=1)
        file.write("\n")
    print(len(cases), "snippets,", sum("error" in case for case in cases), "errors")


if __name__ == "__main__":
    main()
